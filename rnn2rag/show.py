"""What a notebook shows: figures, tables, and numbers for the prose, alike in a page, in JupyterLab and in Colab.

A figure is one inline SVG on a transparent ground. What is black in it (axes, text) takes the color of the text around
it, so that the same output serves a light and a dark page; `PALETTE` is legible on both.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from matplotlib.figure import Figure

T = TypeVar("T")

# Each has a contrast of at least 3:1 against white and against #14171a, and differs from the others in lightness where
# color-blind readers see the same hue.
PALETTE = {"teal": "#389f95", "rust": "#9c5528", "blue": "#236fa3", "purple": "#a862ee", "ochre": "#cb7f0c"}

WIDGET = "application/vnd.jupyter.widget-view+json"  # refers to a kernel: an edition, whose kernel has ended, has none
_GLUE_PREFIX = "application/papermill.record/"  # hides the value itself; the mark is read by myst_nb and papermill
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_PIXELS_PER_POINT = 1.5  # text of 10 points has 15 pixels, and 9 where a phone shrinks the default width to its own


def axes(rows: int = 1, columns: int = 1, width: float = 5.4, height: float = 3.0) -> tuple[Figure, Any]:
    """Return a new matplotlib figure and its axes (an array of them where there are several) in the house style.

    rows, columns: the grid of axes. width, height: the size of the whole figure in inches.
    """
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colors = list(PALETTE.values())
    style = {
        "axes.prop_cycle": cycler(color=colors, linewidth=[2.0] * len(colors)),
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(style):
        fig = Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots(rows, columns)


def figure(fig: Figure, alt: str, caption: str | None = None) -> None:
    """Display a matplotlib figure once, as an inline SVG, and close it.

    alt: what the figure shows, in words, for readers who do not see it. caption: a line under the figure.
    The same figure gives the same bytes. Raises ValueError for an empty alt text.
    """
    from IPython.display import display

    if not alt.strip():
        raise ValueError("a figure needs an alt text: say what it shows")
    html = f'<figure class="rnn2rag-figure"><div {_SVG_ALONE}>{_inline_svg(fig, alt)}</div>{_below(caption)}</figure>'
    display({"text/html": html, "text/plain": alt}, raw=True)


# JupyterLab takes the drawings out of notebooks that it does not trust and leaves their words, which say nothing alone.
# So words are hidden around a drawing, and the drawing is not. It takes attributes without a value too: there, and
# nowhere else, a note stands in the drawing's place.
_SVG_ALONE = 'style="font-size: 0; visibility: hidden"'
_NOT_TRUSTED = (
    "<p hidden>Run the cell to see the figure: JupyterLab shows none in a notebook that it does not trust.</p>"
)

# Of an explorer's slider; a page needs no script of its own.
_ON_INPUT = (
    "const box = this.closest('figure'), frames = box.querySelectorAll('[data-frame]'); "
    "frames.forEach((frame, number) => { frame.hidden = number != this.value; }); "
    "const name = box.querySelector('output').value = frames[this.value].dataset.frame; "
    "this.setAttribute('aria-valuetext', name);"
)


def explore(
    draw: Callable[[T], Figure],
    values: Mapping[T, str],
    label: str,
    alt: Callable[[T], str],
    start: int = 0,
    caption: str | None = None,
) -> None:
    """Display a figure that the reader moves through with a slider.

    All is drawn now, so a page needs no kernel. A front end of Jupyter that can show widgets shows a live slider in its
    place, which calls `draw` again.

    draw: makes the figure for a value; all figures must have one size. values: {value: the words that the slider shows
    for it}. label: what the slider is for. alt: what the figure for a value shows, in words. start: the number of the
    value that is shown first, and on paper. Raises ValueError for an empty alt text, for fewer than two values, and
    where there is no value number `start`.
    """
    from IPython.display import display

    names, texts = list(values.values()), [alt(value) for value in values]
    if len(names) < 2 or not 0 <= start < len(names):
        raise ValueError(f"an explorer needs at least two values, and starts at one of them; {start} of {len(names)}")
    if not all(text.strip() for text in texts):
        raise ValueError("every figure of an explorer needs an alt text: say what it shows")
    frames = []
    for number, (value, name, text) in enumerate(zip(values, names, texts, strict=True)):
        hidden = "" if number == start else " hidden"
        svg = _inline_svg(draw(value), text, whole=True)
        frames.append(f'<div data-frame="{escape(name)}"{hidden} {_SVG_ALONE}>{svg}</div>')
    slider = (
        f'<p><label>{escape(label)} <input type="range" min="0" max="{len(names) - 1}" value="{start}" '
        f'aria-valuetext="{escape(names[start])}" oninput="{escape(_ON_INPUT)}"></label> '
        f"<output>{escape(names[start])}</output></p>"
    )
    html = f'<figure class="rnn2rag-figure rnn2rag-explorer">{slider}{"".join(frames)}{_below(caption)}</figure>'
    live = _live_explorer(draw, values, label, alt, start, caption)
    display({**live, "text/html": html, "text/plain": f"{label} {names[start]}: {texts[start]}"}, raw=True)


def _live_explorer(
    draw: Callable[[T], Figure],
    values: Mapping[T, str],
    label: str,
    alt: Callable[[T], str],
    start: int,
    caption: str | None,
) -> dict[str, Any]:
    import ipywidgets

    def drawn(value: T) -> str:
        return f"<figure>{_inline_svg(draw(value), alt(value), whole=True)}{_below(caption)}</figure>"

    slider = ipywidgets.SelectionSlider(
        options=[(name, value) for value, name in values.items()],
        index=start,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "min(36rem, 100%)"},
    )
    figure = ipywidgets.HTML(drawn(slider.value))
    slider.observe(lambda change: figure.set_trait("value", drawn(change.new)), "value")
    box = ipywidgets.VBox([slider, figure])
    return {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": box.model_id}}  # alike in ipywidgets 7 and 8


# Of the box around the tokens: the pointer, the focus and a tap all end as a click on one of them.
_ON_CHOICE = (
    "const chosen = event.target.closest('button'); if (!chosen) return; "
    "const weights = chosen.dataset.weights.split(' '); "
    "this.querySelectorAll('button').forEach((token, number) => { "
    "token.setAttribute('aria-pressed', token === chosen); token.lastChild.textContent = weights[number]; "
    "token.style.background = `rgb(56 159 149 / ${0.45 * weights[number]})`; }); "
    "this.nextElementSibling.textContent = chosen.dataset.words"
)


def weights(
    tokens: Sequence[str],
    weights: Sequence[Sequence[float]],
    label: str,
    start: int = 0,
    caption: str | None = None,
) -> None:
    """Display tokens in a row; each, once it is pointed at, reached by Tab or tapped, shows its weights on all of them.

    The weights stand under the tokens as numbers, and as a shade behind them. It needs no kernel and no script of the
    page. weights: from 0 to 1, a row for each token with a number for each token. label: what the weights are. start:
    the number of the token that is chosen first, and on paper. Raises ValueError for weights of another form, and where
    there is no token number `start`.
    """
    from IPython.display import display

    rows = [[f"{float(weight):.2f}" for weight in row] for row in weights]
    if not tokens or [len(row) for row in rows] != [len(tokens)] * len(tokens):
        raise ValueError(f"{len(tokens)} tokens need a row of {len(tokens)} weights each")
    if not all(0 <= float(weight) <= 1 for row in rows for weight in row):
        raise ValueError("weights lie from 0 to 1: divide them by their sum, or by the largest")
    if not 0 <= start < len(tokens):
        raise ValueError(f"there is no token number {start} of {len(tokens)} to start at")
    names = [token.replace(" ", "␣").replace("\n", "⏎") for token in tokens]
    words = []
    for name, row in zip(names, rows, strict=True):
        largest = sorted(range(len(row)), key=lambda number, row=row: -float(row[number]))[:4]
        words.append(f"{label} of {name}: " + ", ".join(f"{names[number]} {row[number]}" for number in largest))
    buttons = "".join(
        f'<button type="button" aria-pressed="{"true" if number == start else "false"}" onfocus="this.click()" '
        f'onmouseenter="this.click()" data-weights="{" ".join(row)}" data-words="{escape(said)}" '
        f'style="background: rgb(56 159 149 / {0.45 * float(rows[start][number]):.3f}); border: 1px solid; '
        f'border-radius: 0.3rem; color: inherit; font: inherit; margin: 0.15rem; padding: 0.3rem 0.5rem">'
        f"{escape(name)}<br><small>{rows[start][number]}</small></button>"
        for number, (name, row, said) in enumerate(zip(names, rows, words, strict=True))
    )
    box = f'<div role="group" aria-label="{escape(label)}" onclick="{escape(_ON_CHOICE)}">{buttons}</div>'
    html = f'<figure class="rnn2rag-figure rnn2rag-weights">{box}<output>{escape(words[start])}</output>'
    html += f"<figcaption>{escape(caption)}</figcaption></figure>" if caption else "</figure>"
    display({"text/html": html, "text/plain": "\n".join(words)}, raw=True)


def table(rows: Sequence[Sequence[object]], headers: Sequence[str], caption: str | None = None) -> None:
    """Display a table; the first cell of each row is the row's header.

    rows: one sequence of cells a row, shown as `str` gives them. Raises ValueError for a header without text, and for a
    row that is longer or shorter than the headers.
    """
    from IPython.display import display

    if not all(header.strip() for header in headers):
        raise ValueError("every column of the table needs a header: say what stands in it")
    cells = [[str(cell) for cell in row] for row in rows]
    if any(len(row) != len(headers) for row in cells):
        raise ValueError(f"every row of the table needs {len(headers)} cells, one for each header")
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in cells
    )
    html = f'<table class="rnn2rag-table">{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [list(headers), *cells]]
    display({"text/html": html, "text/plain": "\n".join([caption, *lines] if caption else lines)}, raw=True)


def glue(name: str, value: object) -> None:
    """Store a value for the prose, where the MyST role `{glue:text}` with "name:.2f" sets it; the cell shows nothing.

    value: a number, a string, or an array or tensor with one element. The output is what `myst_nb.glue` writes.
    """
    from IPython.core.formatters import format_display_data
    from IPython.display import display

    plain = value.item() if hasattr(value, "item") else value
    bundle, metadata = format_display_data(plain)
    metadata["scrapbook"] = {"name": name, "mime_prefix": _GLUE_PREFIX}
    display({_GLUE_PREFIX + mime: data for mime, data in bundle.items()}, raw=True, metadata=metadata)


def _below(caption: str | None) -> str:
    return _NOT_TRUSTED + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")


def _inline_svg(fig: Figure, alt: str, whole: bool = False) -> str:
    """Draw a figure as an SVG element that can stand in a page with others, and close it.

    whole: with the margins around it.
    """
    from xml.etree import ElementTree

    from matplotlib import rc_context
    from matplotlib.legend import Legend

    for legend in fig.findobj(Legend):
        legend.set_frame_on(False)  # its ground would be white
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "rnn2rag", "svg.fonttype": "none"}):
        box = None if whole else "tight"
        fig.savefig(buffer, format="svg", transparent=True, bbox_inches=box, metadata={"Date": None})
    if "matplotlib.pyplot" in sys.modules:  # else Jupyter shows the open figure again at the end of the cell
        sys.modules["matplotlib.pyplot"].close(fig)
    drawn = ElementTree.fromstring(buffer.getvalue())

    _drop(drawn, _SVG + "metadata")
    _drop(drawn, _SVG + "style")  # its rule would reach every element of the page
    view = drawn.get("viewBox", "")
    width, height = (round(float(size) * _PIXELS_PER_POINT) for size in view.split()[2:])
    for element in drawn.iter():
        _tidy(element)
    _keep_used_ids(drawn, "fig-" + hashlib.sha256(buffer.getvalue() + alt.encode()).hexdigest()[:8])
    drawn.attrib = {
        "viewBox": _rounded(view),
        "width": str(width),
        "height": str(height),
        "role": "img",
        "aria-label": alt,
        "fill": "currentColor",
        "style": "visibility: visible; max-width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt",
    }
    ElementTree.register_namespace("", _SVG.strip("{}"))
    return re.sub(r">\s+<", "><", ElementTree.tostring(drawn, encoding="unicode")).strip()


def _drop(parent: Element, tag: str) -> None:
    for child in list(parent):
        if child.tag == tag:
            parent.remove(child)
        else:
            _drop(child, tag)


def _tidy(element: Element) -> None:
    """Round coordinates, let black be the color of the text around, and leave the choice of font to the page."""
    for name in ("d", "x", "y", "points"):
        if name in element.attrib:
            element.set(name, _rounded(element.attrib[name]))
    if element.get("transform", "").startswith(("rotate(-0 ", "rotate(0 ")):
        del element.attrib["transform"]
    if "style" in element.attrib:
        kept = []
        for declaration in element.attrib["style"].split(";"):
            name, _, value = declaration.strip().partition(": ")
            if name == "font":  # in one, as matplotlib 3.9 writes it
                kept += _font(value)
            elif name and name != "font-family":
                kept.append(f"{name}: {value.replace('#000000', 'currentColor')}")
        element.set("style", "; ".join(kept))
    if _LINK in element.attrib:
        element.set("href", element.attrib.pop(_LINK))


def _font(shorthand: str) -> list[str]:
    """Spell out the style, weight and size of a CSS font without its family."""
    before, size = re.match(r"(.*?)([\d.]+px)", shorthand).groups()
    styles = [f"font-style: {word}" for word in before.split() if word in ("italic", "oblique")]
    weights = [f"font-weight: {word}" for word in before.split() if word.isdigit() or word == "bold"]
    return [*styles, *weights, f"font-size: {size}"]


def _keep_used_ids(drawn: Element, prefix: str) -> None:
    """Number the ids that the figure itself refers to, under a prefix of its own, and drop the others."""
    used: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        return match[1] + used.setdefault(match[2], f"{prefix}-{len(used)}")

    for element in drawn.iter():
        for name, value in element.attrib.items():
            element.set(name, re.sub(r"(url\(#)([^)]+)", renamed, value))
        if element.get("href", "").startswith("#"):
            element.set("href", re.sub(r"(#)(.+)", renamed, element.attrib["href"]))
    for element in drawn.iter():
        name = used.get(element.attrib.pop("id", ""))
        if name:
            element.set("id", name)


def _rounded(numbers: str) -> str:
    """Round the numbers in a path or a list of coordinates to a hundredth of a point."""
    return " ".join(
        re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), part)
        for part in numbers.split()
    )
