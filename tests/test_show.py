"""What notebooks show: legible on light and dark, one figure at a time, the same bytes every time."""

import itertools
import re
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium
from conftest import ROOT, load, write_section
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient import NotebookClient

from rnn2rag import execute, show
from rnn2rag.authoring import editions
from rnn2rag.authoring.markdown import Library

DARK = "#14171a"
# Severity 1.0 in Machado, Oliveira and Fernandes (2009), applied to linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def linear(color):
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    relative = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: outputs.append(bundle))
    return outputs


@pytest.fixture
def shell():
    """A running IPython, as in a notebook."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def a_figure():
    fig, (left, right) = show.axes(1, 2, height=2.5)
    left.plot([0, 1, 2], [0.123456789, 1, 4], label="squares")
    left.set(xlabel="number", title="squares")
    left.legend()
    left.text(1.0, 1.0, "3.14159")
    right.semilogy([1, 2, 3], [1, 10, 1000])
    right.fill_between([1, 2, 3], [1, 10, 1000], alpha=0.2)
    return fig


def svg_of(bundle):
    html = bundle["text/html"]
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + len("</svg>")])


def ids_of(svg):
    return [element.get("id") for element in svg.iter() if element.get("id")]


@pytest.mark.parametrize("ground", ["#ffffff", DARK])
@pytest.mark.parametrize("name", show.PALETTE)
def test_palette_stands_out_on_light_and_dark(name, ground):
    assert contrast(show.PALETTE[name], ground) >= 3


def test_contrast_is_measured_right():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("sight", SIGHT)
def test_palette_stays_apart_for_color_blind_readers(sight):
    seen = {name: lab(SIGHT[sight] @ linear(color)) for name, color in show.PALETTE.items()}
    apart = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in itertools.combinations(seen, 2)}
    closest = min(apart, key=apart.get)
    assert apart[closest] > 20, f"{closest} differ by {apart[closest]:.1f} (CIELAB)"


def test_a_figure_is_described_and_takes_the_color_of_the_page(shown):
    show.figure(a_figure(), 'Two curves, "steep" & rising', caption="x < y")
    html = shown[0]["text/html"]
    svg = svg_of(shown[0])
    assert shown[0]["text/plain"] == svg.get("aria-label") == 'Two curves, "steep" & rising'
    assert svg.get("role") == "img" and svg.get("fill") == "currentColor"
    assert html.startswith('<figure class="rnn2rag-figure"><div style="font-size: 0; visibility: hidden"><svg ')
    assert html.endswith("<figcaption>x &lt; y</figcaption></figure>")
    assert "stroke: currentColor" in html
    for left_over in ("#000000", "#ffffff", "<style", "<metadata", "DejaVu", "font-family"):
        assert left_over not in html


def test_text_stays_text_and_keeps_its_digits(shown):
    show.figure(a_figure(), "Two curves")
    words = {"".join(element.itertext()) for element in svg_of(shown[0]).iter("{http://www.w3.org/2000/svg}text")}
    assert {"3.14159", "squares", "number", "102"} <= words  # "102": ten to the second, as small text above the line


def test_coordinates_are_rounded(shown):
    show.figure(a_figure(), "Two curves")
    for element in svg_of(shown[0]).iter():
        for name in ("d", "x", "y"):
            assert not re.search(r"\.\d{3}", element.get(name, ""))
    assert len(shown[0]["text/html"]) < 15_000


def test_figures_on_one_page_share_no_ids(shown):
    show.figure(a_figure(), "One")
    show.figure(a_figure(), "Two")
    first, second = map(svg_of, shown)
    assert ids_of(first) and not set(ids_of(first)) & set(ids_of(second))
    for svg in (first, second):
        named = ids_of(svg)
        assert len(named) == len(set(named))
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', ElementTree.tostring(svg, encoding="unicode")))
        assert used == set(named)


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_alt_text_is_refused(shown, alt):
    with pytest.raises(ValueError, match="needs an alt text"):
        show.figure(a_figure(), alt)
    assert not shown


def an_explorer(**changed):
    given = {"values": {1: "one <", 2: "two"}, "label": "Step", "alt": lambda value: f"A line to {value}."}
    show.explore(lambda value: a_figure(), **{**given, **changed})


def test_an_explorer_holds_a_figure_for_each_value_and_shows_one(shown):
    an_explorer(start=1, caption="Lines")
    html = shown[0]["text/html"]
    frames = re.findall(r'<div data-frame="([^"]*)"( hidden)? style="[^"]*"><svg [^>]*aria-label="([^"]*)"', html)
    assert frames == [("one &lt;", " hidden", "A line to 1."), ("two", "", "A line to 2.")]
    slider = '<label>Step <input type="range" min="0" max="1" value="1" aria-valuetext="two" oninput="'
    assert slider in html and "<output>two</output>" in html and "<figcaption>Lines</figcaption>" in html
    assert shown[0]["text/plain"] == "Step two: A line to 2."
    sizes = re.findall(r'viewBox="([^"]*)" width="(\d+)" height="(\d+)"', html)
    assert len(sizes) == 2 and len(set(sizes)) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": {1: "one"}}, "at least two values"),
        ({"start": 2}, "2 of 2"),
        ({"alt": lambda value: " "}, "needs an alt text"),
    ],
)
def test_an_explorer_that_cannot_be_read_is_refused(shown, changed, message):
    with pytest.raises(ValueError, match=message):
        an_explorer(**changed)
    assert not shown


def test_the_explorer_for_authors_leaves_in_an_edition_what_needs_no_kernel(tree):
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8"), re.S)
    source = write_section(tree, "explorer", "# An explorer", f"%%\nfrom rnn2rag import show\n\n{example}")
    run = execute.run(execute.Task(editions.read(source)))
    [output] = run.notebook.cells[-1].outputs
    assert not run.error and not run.noise and set(output.data) == {show.WIDGET, "text/html", "text/plain"}
    editions.write(source, run, Library.of(tree))
    [output] = load(editions.edition_path(source))["cells"][-1]["outputs"]
    assert set(output["data"]) == {"text/html", "text/plain"}
    frames = re.findall(r'data-frame="([^"]*)".*?aria-label="([^"]*)"', "".join(output["data"]["text/html"]))
    assert [name for name, text in frames] == ["w = 0.8", "w = 1", "w = 1.05"]
    assert frames[0][1] == "What is left of an error of 1 after 20 steps: 0.012."


SENTENCE = ["The", " cat", "<s>"]
LOOKS = [[1, 0, 0], [0.25, 0.75, 0], [0.1, 0.62, 0.28]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_weights_of_tokens_are_shown_by_pointer_focus_and_tap(shown, scheme):
    show.weights(SENTENCE, LOOKS, "Attention", start=2, caption="One head")
    assert shown[0]["text/plain"].splitlines()[1] == "Attention of ␣cat: ␣cat 0.75, The 0.25, <s> 0.00"
    colors = {"light": "color: #202428; background: #fff", "dark": "color: #ced6dd; background: #14171a"}[scheme]
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 700}, has_touch=True).new_page()
        head = f"<!doctype html><html lang=en><title>Tokens</title><body style='{colors}'>"
        page.set_content(f"{head}<main><h1>Tokens</h1>{shown[0]['text/html']}</main>")
        tokens, said = page.get_by_role("button"), page.get_by_role("status")

        def is_chosen(number):
            pressed = [token.get_attribute("aria-pressed") for token in tokens.all()]
            below = [token.locator("small").inner_text() for token in tokens.all()]
            return pressed.index("true") == number == len(pressed) - 1 - pressed[::-1].index("true") and below == [
                f"{weight:.2f}" for weight in LOOKS[number]
            ]

        assert is_chosen(2) and said.inner_text() == "Attention of <s>: ␣cat 0.62, <s> 0.28, The 0.10"
        page.keyboard.press("Tab")
        assert is_chosen(0) and said.inner_text().startswith("Attention of The: The 1.00")
        tokens.nth(1).tap()
        assert is_chosen(1)
        tokens.nth(2).hover()
        assert is_chosen(2)
        assert not Axe().run(page).response["violations"]


def test_weights_of_another_form_are_refused(shown):
    for wrong, said in (
        (LOOKS[:2], "3 tokens need a row of 3"),
        ([[1, 0], *LOOKS[1:]], "3 tokens need a row of 3"),
        ([[1.2, 0, 0], *LOOKS[1:]], "from 0 to 1"),
        ([[float("nan"), 0, 0], *LOOKS[1:]], "from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            show.weights(SENTENCE, wrong, "Attention")
    with pytest.raises(ValueError, match="no token number 3"):
        show.weights(SENTENCE, LOOKS, "Attention", start=3)
    assert not shown


def test_a_table_has_headers_for_rows_and_columns(shown):
    show.table([("bigram", 3.35), ("<RNN>", 2.31)], ["model", "bits"], caption="Held-out tales")
    html = shown[0]["text/html"]
    assert '<caption>Held-out tales</caption><thead><tr><th scope="col">model</th><th scope="col">bits</th>' in html
    assert '<tr><th scope="row">&lt;RNN&gt;</th><td>2.31</td></tr>' in html
    assert shown[0]["text/plain"] == "Held-out tales\nmodel   bits\nbigram  3.35\n<RNN>   2.31"


def test_a_table_with_a_short_row_is_refused(shown):
    with pytest.raises(ValueError, match="needs 2 cells"):
        show.table([("bigram",)], ["model", "bits"])


def test_a_table_with_an_empty_header_is_refused(shown):
    with pytest.raises(ValueError, match="needs a header"):
        show.table([("bigram", 3.35)], ["", "bits"])
    assert not shown


@pytest.mark.parametrize("value", [0.1 + 0.2, 3, -1e-9, "a 'quoted' word"])
def test_glue_writes_what_myst_nb_reads(shell, value):
    import myst_nb

    with capture_output() as theirs:
        myst_nb.glue("key", value, display=False)
    with capture_output() as ours:
        show.glue("key", value)
    assert [(o.data, o.metadata) for o in ours.outputs] == [(o.data, o.metadata) for o in theirs.outputs]


@pytest.mark.parametrize("value", [np.float64(0.25), np.array(0.25), "tensor"])
def test_glue_takes_the_number_out_of_arrays_and_tensors(shell, value):
    if value == "tensor":
        import torch

        value = torch.tensor([0.25], requires_grad=True)
    with capture_output() as captured:
        show.glue("key", value)
    assert captured.outputs[0].data == {"application/papermill.record/text/plain": "0.25"}


def test_in_a_kernel_a_figure_shows_once_and_glue_shows_nothing(shown):
    """The figures of a pyplot user, too, are closed; and another process draws the same bytes."""
    pyplot = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2])\n"
    cells = [f"{pyplot}from rnn2rag import show\nshow.figure(fig, 'A line')", "show.glue('half', 0.5)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    drawn, glued = (cell.outputs for cell in notebook.cells)
    assert [sorted(output.data) for output in drawn] == [["text/html", "text/plain"]]
    assert [list(output.data) for output in glued] == [["application/papermill.record/text/plain"]]

    from matplotlib import pyplot as plt

    fig, ax = plt.subplots()
    ax.plot([1, 2])
    show.figure(fig, "A line")
    assert not plt.get_fignums()
    assert shown[0]["text/html"] == drawn[0].data["text/html"]
