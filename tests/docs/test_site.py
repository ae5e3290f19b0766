"""The documentation site: its pages are listed, its links lead somewhere, and it can be built."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.pages import DOCS

import circuitkit

ROOT = DOCS.parent
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
_LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]*))?\)")
_CODE = re.compile(r"^( *)(```+).*?^\1\2$", re.DOTALL | re.MULTILINE)


def pages_in_navigation(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield re.sub(r"^(notebooks/.*)\.md$", r"\1.ipynb", entry).replace("api/", "api/index.md")
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from pages_in_navigation(part)


def listed_pages() -> list[str]:
    return [found[1] for found in _LINK.finditer((DOCS / "llms.txt").read_text())]


def test_llms_txt_lists_every_page_of_the_navigation_once() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert listed_pages() == list(pages_in_navigation(navigation))
    assert len(set(listed_pages())) == len(listed_pages()) > 40


def test_every_link_of_llms_txt_exists_and_has_a_line() -> None:
    assert [name for name in listed_pages() if name != "api/index.md" and not (DOCS / name).is_file()] == []
    lines = [line for line in (DOCS / "llms.txt").read_text().splitlines() if line.startswith("- ")]
    assert [line for line in lines if not re.fullmatch(r"- \[[^]]+\]\([^)]+\): \S.*", line)] == []


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere_in_the_repository(page: Path) -> None:
    for target, anchor in _LINK.findall(_CODE.sub("", page.read_text())):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links to {target}#{anchor}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, without executing notebooks; warnings are errors."""
    pytest.importorskip("mkdocstrings", reason="MkDocs with mkdocstrings is not installed (extra `docs`)")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "CIRCUITKIT_DOCS_EXECUTE": "false", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_reference_has_every_public_name(site: Path) -> None:
    index = (site / "api" / "index.html").read_text()
    for name in sorted({*circuitkit.__all__} - {"__version__"}):
        assert f"circuitkit.{name}<" in index, name
    stub = ast.parse((ROOT / "circuitkit" / "strategies" / "__init__.pyi").read_text())
    page = (site / "api" / "strategies" / "index.html").read_text()
    for statement in stub.body:
        assert isinstance(statement, ast.ImportFrom)
        assert f'id="circuitkit.strategies.{statement.module}.{statement.names[0].name}"' in page


def test_links_out_of_the_documentation_are_pages_of_the_site(site: Path) -> None:
    assert 'href="../repository/examples/ioi_toy.yaml/"' in (site / "comparison" / "index.html").read_text()
    shown = (site / "repository" / "examples" / "my_task" / "index.html").read_text()
    assert "my_task.py" in shown
    assert "pyproject.toml" in shown
    assert 'href="../../explanation/engine/"' in (site / "repository" / "CONTRIBUTING" / "index.html").read_text()


def test_llms_txt_leads_to_pages_of_the_site(site: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text())
    assert [link for link in links if not (site / link / "index.html").is_file()] == []
    assert len(links) == len(listed_pages())


def test_the_search_finds_pages_names_and_notebooks(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    locations = {entry["location"] for entry in found}
    assert {"start/", "api/strategies/#circuitkit.strategies.acdc.ACDC", "notebooks/first_circuit/"} <= locations


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in ("index.html", "api/strategies/index.html", "notebooks/first_circuit/index.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//', (site / page).read_text())
        assert loaded == []
