"""Reads a page's elements and text."""

from html.parser import HTMLParser
from pathlib import Path


class PageReader(HTMLParser):
    """Collects the elements of a page with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    def find(self, tag: str) -> dict[str, str | None]:
        """Return the attributes of the only element of this name."""
        (found,) = (attributes for name, attributes in self.elements if name == tag)
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] not in (["script"], ["style"]):
            self.text += data


def read_page(folder: Path) -> PageReader:
    return PageReader((folder / "report.html").read_text())
