"""Reading report pages in tests."""

from __future__ import annotations

from html.parser import HTMLParser

VOID_ELEMENTS = {"meta", "img", "link", "br", "wbr"}


class Balanced(HTMLParser):
    """Fails where tags do not close; lists what a page would fetch or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.alts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.sources += [values[name] for name in ("src", "href", "data") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.alts += [values.get("alt", "")] if tag == "img" else []
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser
