from html.parser import HTMLParser

import pytest

from ctr_pipeline.evaluation.html_page import Html, document, figure, folded, link, listed, plots, table

HOSTILE = "<script>alert(\"1\")</script> & 'x'"


class Structure(HTMLParser):
    """Elements that are not closed in order, and what a page asks for elsewhere."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._goes_on = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._goes_on = tag == "wbr"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self._goes_on:
            self.text[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)
        self._goes_on = False

    @property
    def fetched(self) -> list[str]:
        """Addresses that a browser fetches to show the page."""
        urls = [of.get("src") or (of.get("href") if tag == "link" else None) for tag, of in self.elements]
        return [url for url in urls if url and not url.startswith("data:")]


def read(page: str) -> Structure:
    """The structure of a page, which is whole: all elements are closed in order, and nothing is fetched or run."""
    found = Structure()
    found.feed(page)
    found.close()
    assert found.wrong == []
    assert found.open == []
    assert found.fetched == []
    assert "script" not in {tag for tag, _ in found.elements}
    assert "@import" not in page
    assert "url(" not in page
    return found


def test_a_page_is_whole_and_escapes_all_text() -> None:
    page = document(
        HOSTILE,
        [
            listed([HOSTILE]),
            "",
            table([HOSTILE, "b"], [(HOSTILE, 1.5), (Html("<b>bold</b>"), 2)], numbers=[1], caption=HOSTILE),
            plots([figure(b"png", HOSTILE, HOSTILE)]),
            folded(HOSTILE, "<p>more</p>"),
            f"<p>{link('https://x.example/?a=1&b=<2>', HOSTILE)}</p>",
        ],
    )
    found = read(page)
    # Title of the window, item, caption above the table, head, cell, caption of the picture, summary, link; its text is an attribute too.
    assert [text for text in found.text if text == HOSTILE] == [HOSTILE] * 8
    assert [of["alt"] for tag, of in found.elements if tag == "img"] == [HOSTILE]
    assert "bold" in found.text
    assert [of["href"] for tag, of in found.elements if tag == "a"] == ["https://x.example/?a=1&b=<2>"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x"])
def test_a_link_runs_nothing(url: str) -> None:
    assert link(url, "text") == "text"


def test_long_words_of_a_table_may_stand_on_several_lines() -> None:
    page = table(
        ["a"], [("add_to_cart",), ("attribution/change_page.py ends",), (Html("<code>long_as_it_is_here</code>"),)]
    )
    assert "<td>add_to_cart</td>" in page
    assert "<td>attribution/<wbr>change_<wbr>page.<wbr>py ends</td>" in page
    assert "<code>long_as_it_is_here</code>" in page


def test_nothing_is_shown_of_nothing() -> None:
    assert [table(["a"], []), listed([]), plots([]), folded("more", "")] == [""] * 4
