"""Links for MkDocs that lead out of docs/, or to a notebook.

Pages link to `../examples/ioi_toy.yaml` or `../CONTRIBUTING.md`, as Markdown in a repository does. Every such target
becomes a page below `repository/`: Markdown as it is, other text as a block of code, and a folder as the blocks of its
files. So links work on the site and in the repository alike, wherever either is published.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"^( *)(```+).*?^\1\2$", re.DOTALL | re.MULTILINE)
_LANGUAGES = {".py": "python", ".pyi": "python", ".toml": "toml", ".yaml": "yaml", ".csv": "text", ".sh": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for everything outside of docs/ that a page links to."""
    known, waiting = set[str](), list(files.documentation_pages())
    while waiting:
        page = waiting.pop()
        for path in outside_targets(page.content_string, _in_repository(page.src_uri)):
            if path not in known:
                known.add(path)
                added = File.generated(config, _on_site(path), content=show_file(ROOT / path))
                files.append(added)
                waiting.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to these pages."""
    here = page.file.src_uri

    def relink(found: re.Match[str]) -> str:
        place = _on_site(_resolve(_in_repository(here), found[2]))
        return f"{found[1]}{posixpath.relpath(place, posixpath.dirname(here) or '.')}{found[3] or ''}{found[4]}"

    pieces, end = list[str](), 0
    for code in _CODE.finditer(markdown):
        pieces += [_LINK.sub(relink, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, _LINK.sub(relink, markdown[end:])])


def on_post_build(config: MkDocsConfig) -> None:
    """Let the list of pages, a file of its own, lead to the pages of the site."""
    listed = Path(config.site_dir, "llms.txt")
    text = re.sub(r"(\]\()(?:index\.md)\)", r"\1./)", listed.read_text())
    listed.write_text(re.sub(r"(\]\([^)]*?)(?:/index)?\.(?:md|ipynb)\)", r"\1/)", text))


def outside_targets(markdown: str, here: str) -> Iterator[str]:
    """List the files and folders outside of docs/ that a page at the path `here` of the repository links to."""
    for found in _LINK.finditer(_CODE.sub("", markdown)):
        target = _resolve(here, found[2])
        if not (target == "docs" or target.startswith("docs/")):
            if target.startswith("..") or not (ROOT / target).exists():
                raise PluginError(f"{here} links to {found[2]}, which is not there")
            yield target


def show_file(path: Path) -> str:
    """Write the page of a file or folder."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.suffix in _LANGUAGES and ".egg-info" not in str(file)]
        return f"# {name}\n\n" + "\n\n".join(f"## {file.relative_to(path)}\n\n{_block(file)}" for file in found) + "\n"
    return path.read_text() if path.suffix == ".md" else f"# {name}\n\n{_block(path)}\n"


def _block(path: Path) -> str:
    return f"````{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n````"


def _in_repository(src_uri: str) -> str:
    return src_uri.removeprefix("repository/") if src_uri.startswith("repository/") else f"docs/{src_uri}"


def _on_site(path: str) -> str:
    """Say which source of the site shows a file or folder of the repository."""
    if path == "docs":
        return "index.md"
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _resolve(here: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
