"""What a piece of HTML consists of."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements, attributes and texts of a page.

    Attributes:
        tags: names of the elements, in order.
        attributes: of each element.
        text: what is not in an element of script or style.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.text += data

    def find(self, tag: str) -> dict[str, str | None]:
        """Return the attributes of the only element of this name."""
        (number,) = (number for number, one in enumerate(self.tags) if one == tag)
        return self.attributes[number]
