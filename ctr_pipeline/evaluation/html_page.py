"""Pages that are one HTML file each: no script, no other file, readable on a phone and on paper.

All text is escaped where it is put in; what is HTML already is :class:`Html`.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; background: #fff; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.3; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #e3e3e3; } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
a { color: #005a8f; } code { background: #f4f4f4; padding: .1rem .25rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } p.caption { color: #555; margin: .9rem 0 .1rem; } p.caption + .scroll { margin-top: 0; }
td, th { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; overflow-wrap: normal; }
td:not(.number) { min-width: 5.5rem; max-width: 34rem; overflow-wrap: break-word; } thead th { vertical-align: bottom; } td ul { margin: 0; padding-left: 1.1rem; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .5rem 0; }
.error { color: #c1272d; font-weight: 600; } .warning { color: #8a5200; font-weight: 600; } .good { color: #00684c; font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; } .plots img { flex: 1 1 22rem; min-width: min(18rem, 100%); max-width: 36rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1rem; align-items: start; }
img { max-width: 100%; height: auto; } figure { margin: 0; max-width: 30rem; min-width: 0; } figcaption { color: #555; font-size: .9em; }
figure img { display: block; width: 100%; } details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; } li { overflow-wrap: anywhere; }
@media (max-width: 34rem) { body { margin-top: 1rem; padding: 0 .7rem; } td, th { padding: .25rem .35rem; font-size: .92em; } }
@media print {
  body { max-width: none; margin: 0; font-size: 10.5pt; } a { color: inherit; text-decoration: none; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: 9pt; } .figures { grid-template-columns: 1fr 1fr; } figure, .cause, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } details:not([open])::details-content { content-visibility: visible; block-size: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
"""Style of all pages."""


LONG_WORD = 14
"""Letters from which on a word in a table is broken between its parts."""

_PARTS = re.compile(r"([_./])(?=\w)")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """The whole page.

    Args:
        title: Title of the window.
        body: Parts, HTML already; empty ones are left out.
        style: Further style, beside :data:`STYLE`.
    """
    parts = "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        # Browsers ask for the icon of a page that names none.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n'
        f"<body>\n{parts}\n</body></html>\n"
    )


def html(text: object) -> Html:
    """Text as HTML; what is HTML already stays as it is."""
    return text if isinstance(text, Html) else Html(escape(str(text)))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = (), caption: str = ""
) -> str:
    """A table that scrolls by itself where the window is too narrow; nothing without rows.

    Args:
        heads: Heads of the columns.
        rows: Cells, text or :class:`Html`.
        numbers: Columns that hold numbers.
        caption: What the table shows.
    """
    right = set(numbers)

    def line(tag: str, cells: Sequence[object]) -> str:
        kinds = [' class="number"' if at in right else "" for at in range(len(cells))]
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{kind}>{breakable(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    if not body:
        return ""
    above, label = (
        (f'<p class="caption">{escape(caption)}</p>', f' aria-label="{escape(caption)}"') if caption else ("", "")
    )
    # Who uses the keyboard scrolls it too.
    return (
        f'{above}<div class="scroll" tabindex="0"><table{label}><thead><tr>{line("th", heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def breakable(cell: object) -> Html:
    """A cell whose long words, such as names of columns and files, may stand on several lines."""
    if isinstance(cell, Html):
        return cell
    words = str(cell).split(" ")
    return Html(
        " ".join(_PARTS.sub(r"\1<wbr>", escape(word)) if len(word) > LONG_WORD else escape(word) for word in words)
    )


def listed(texts: Iterable[object]) -> str:
    """A list; nothing without texts."""
    items = "".join(f"<li>{html(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def image(png: bytes, alternative: str) -> str:
    """A picture, with the text for who does not see it."""
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def figure(png: bytes, alternative: str, caption: str = "") -> str:
    """A picture with its caption."""
    named = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image(png, alternative)}{named}</figure>"


def plots(parts: Iterable[str]) -> str:
    """Pictures beside each other, as many as fit; nothing without one."""
    content = "".join(parts)
    return f'<div class="plots">{content}</div>' if content else ""


def figures(parts: Iterable[str]) -> str:
    """Figures in columns, as many as fit; nothing without one."""
    content = "".join(parts)
    return f'<div class="figures">{content}</div>' if content else ""


def folded(summary: str, content: str) -> str:
    """What is shown on a click; nothing without content. On paper it is open."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def link(url: str, text: str) -> Html:
    """A link to a page; text alone where the address is none of the web or of a file beside the page."""
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme not in ("", "http", "https"):
        return html(text)
    return Html(f'<a href="{escape(url)}">{escape(text)}</a>')
