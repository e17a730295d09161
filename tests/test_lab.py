"""The course in a real JupyterLab: the page it starts on, figures, explorers, and a problem set solved by mouse."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import COURSE, ROOT, SET, copy_set, graded_cell, load, make_tree, notebook, write_section
from playwright.sync_api import TimeoutError, expect

from rnn2rag.authoring import lab
from rnn2rag.errors import UserError

SECTION = "chapters/01-recurrent-networks/recurrent-cell"
FIGURES = (ROOT / f"{SECTION}.ipynb").read_text(encoding="utf8").count("<figure ")
EXPLORER = """from rnn2rag import show


def draw(count):
    fig, ax = show.axes(height=2)
    ax.plot(range(count), label=f"{count} points")
    ax.set(xlabel=f"{drawn} {count}")
    return fig


drawn = "in the first run"
show.explore(draw, {2: "two", 3: "three", 4: "four"}, "Points", lambda count: f"{count} points", caption="Lines")"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The chapters as they are, and copies of a small problem set as a student has them."""
    folder = make_tree(tmp_path_factory.mktemp("lab") / "course")
    shutil.copytree(ROOT / "chapters", folder / "chapters", dirs_exist_ok=True)
    shutil.copytree(ROOT / "assets" / "jupyter", folder / "assets" / "jupyter")
    copy_set(folder)
    (folder / "my-copy").mkdir()
    for name, planted in {"wrong": "swapped_shares", "right": "one_sequence_after_the_other"}.items():
        nb = load(folder / "exercises" / SET / "recurrent-networks.ipynb")
        fill(nb, "leaky-cell", planted, "leaky_states")
        (folder / "my-copy" / f"{name}.ipynb").write_text(json.dumps(nb), encoding="utf8")
    not_trusted = load(folder / f"{SECTION}.ipynb")
    not_trusted["cells"][0]["source"] = ["# A section from elsewhere"]
    (folder / "elsewhere.ipynb").write_text(json.dumps(not_trusted), encoding="utf8")
    explorer = notebook(EXPLORER, 'drawn = "in a later run"')
    explorer.metadata["kernelspec"] = not_trusted["metadata"]["kernelspec"]
    nbformat.write(explorer, folder / "explorer.ipynb")
    return folder


def fill(nb, grade_id, planted, name):
    """Write a planted answer into a notebook."""
    text = (COURSE / "solutions" / SET / "misconceptions.py").read_text(encoding="utf8")
    answer = next(node for node in ast.parse(text).body if getattr(node, "name", None) == planted)
    answer.name, answer.decorator_list = name, []
    graded_cell(nb, grade_id)["source"] = ast.unparse(answer)


@pytest.fixture(scope="module")
def address(course, tmp_path_factory):
    """`rnn2rag lab` as `make lab` runs it, for a user who never had a JupyterLab; yields what it tells her to open."""
    home = tmp_path_factory.mktemp("home")
    config = {
        "ServerApp": {"open_browser": False, "port": 0, "allow_root": True},
        "IdentityProvider": {"token": "for-the-test"},
    }
    (home / "jupyter_server_config.json").write_text(json.dumps(config), encoding="utf8")
    own = {f"JUPYTER_{kind}": str(home / kind) for kind in ("DATA_DIR", "RUNTIME_DIR")}
    process = subprocess.Popen(
        [sys.executable, "-c", "from rnn2rag.cli import main; raise SystemExit(main())", "lab"],
        cwd=course / "chapters",
        env={**os.environ, **own, "JUPYTER_CONFIG_DIR": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield opened_by(process, home / "RUNTIME_DIR")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def opened_by(process, runtime):
    """The address that JupyterLab would open in the browser, from the file that it writes for it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for page in runtime.glob("jpserver-*-open.html"):
            found = re.search(r'href="(http[^"]+)"', page.read_text(encoding="utf8"))
            if found:
                return found[1].replace("&amp;", "&")
        time.sleep(0.2)
    process.kill()
    raise AssertionError(process.communicate()[0].decode())


@pytest.fixture
def window(browser, address):
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    yield page
    page.context.close()


def open_file(page, path):
    """Open a file alone, and wait for its kernel."""
    page.goto(f"{page.url.split('/lab')[0]}/lab/tree/{path}?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.locator(".jp-NotebookPanel-toolbar [data-status=idle]").first.wait_for()


def run_all(page):
    """Run all cells by the menu; again where JupyterLab drops it, as it does now and then while a kernel connects."""
    done = page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[\d+\]"))
    for _ in range(5):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(TimeoutError):
            done.first.wait_for(state="attached", timeout=15_000)
            return
    raise AssertionError("JupyterLab runs no cell")


def test_the_first_page_leads_to_a_section_and_its_figures_show(window):
    window.locator(".jp-MarkdownViewer").get_by_role("link", name="The recurrent cell and backpropagation").click()
    expect(window.locator("figure:has(svg)")).to_have_count(FIGURES)  # cells arrive one after the other
    explorer = window.locator(".rnn2rag-explorer").first
    explorer.get_by_role("slider").press("Home")  # it moves before anything was run
    drawing = explorer.locator("svg:visible")
    assert drawing.count() == 1 and drawing.get_attribute("aria-label").startswith("Boxes in a row: h₁ = 2. ")
    assert not window.get_by_text("Run the cell to see the figure").first.is_visible()


def test_a_notebook_that_is_not_trusted_says_how_to_see_its_figures(window):
    open_file(window, "elsewhere.ipynb")
    figures = window.locator("figure")
    expect(figures).to_have_count(FIGURES)
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        expect(figure.get_by_text("Run the cell to see the figure")).to_be_visible()
        words = figure.locator("div")
        assert words.first.text_content() and not [word for word in words.all() if word.is_visible()]


def test_an_explorer_that_was_run_is_live(window):
    open_file(window, "explorer.ipynb")
    run_all(window)
    output = window.locator(".jp-OutputArea-output")
    output.get_by_text("Lines").wait_for()
    assert output.get_by_text("in the first run 2").is_visible() and output.get_by_text("Points").is_visible()
    window.locator(".jp-Cell", has_text="in a later run").get_by_text("[2]:").wait_for()
    output.get_by_role("slider").press("ArrowRight")
    output.get_by_text("in a later run 3").wait_for()  # `draw` ran again, in the kernel
    assert output.get_by_text("three").is_visible() and output.locator("svg[role=img]").count() == 1


def test_a_wrong_answer_meets_its_misconception_and_a_right_one_its_points(window):
    open_file(window, "my-copy/wrong.ipynb")
    run_all(window)
    report = window.locator(".jp-OutputArea-output", has_text="leaky-cell:").first
    report.wait_for(state="attached")
    report.scroll_into_view_if_needed()
    assert "The shares are swapped" in report.inner_text() and "✗" in report.inner_text()
    open_file(window, "my-copy/right.ipynb")
    run_all(window)
    report.wait_for(state="attached")
    report.scroll_into_view_if_needed()
    assert re.search(r"leaky-cell: (\d+) of \1 points", report.inner_text()) and "✗" not in report.inner_text()


def test_the_validate_button_names_the_cell_that_fails(window):
    open_file(window, "my-copy/wrong.ipynb")
    window.get_by_role("button", name="Validate").click()
    dialog = window.locator(".jp-Dialog")
    dialog.get_by_text("failed").first.wait_for()
    assert re.search(r"The following cell failed:\s+problem = checks.Problem\(\"leaky-cell\"", dialog.inner_text())
    window.keyboard.press("Enter")

    open_file(window, "my-copy/right.ipynb")
    window.get_by_role("button", name="Validate").click()
    dialog.get_by_text("did not provide a response").first.wait_for()  # the question in words
    assert "leaky-cell" not in dialog.inner_text()


@pytest.fixture
def chapters(tree):
    """A course with a chapter that has a notebook and a problem set, and a chapter of plain pages."""
    (tree / "_toc.yml").write_text(TOC, encoding="utf8")
    for name, title in {SET: "Recurrent networks", "guide": "Guide"}.items():
        (tree / "chapters" / name).mkdir(exist_ok=True)
        (tree / "chapters" / name / "index.md").write_text(f"# {title}\n", encoding="utf8")
    nbformat.write(notebook("1 + 1"), write_section(tree, "cell", "# The cell").with_suffix(".ipynb"))
    copy_set(tree)
    return tree


TOC = f"""format: jb-book
root: intro
parts:
  - caption: Sequences
    chapters:
      - file: chapters/{SET}/index
        sections:
          - file: chapters/{SET}/cell
          - file: chapters/{SET}/not-run-yet
      - url: https://example.org
  - caption: Guide
    chapters:
      - file: chapters/guide/index
"""


def test_the_first_page_links_every_notebook_of_the_table_of_contents_and_nothing_else(chapters):
    page = lab.start_page(chapters)
    assert page.startswith("# From RNN to RAG\n\n")
    assert page.split("\n## ", 1)[1].splitlines() == [
        "Sequences",
        "",
        "### 1. Recurrent networks",
        "",
        f"- [cell](chapters/{SET}/cell.ipynb)",
        f"- [Problem set 1: recurrent networks](exercises/{SET}/recurrent-networks.ipynb)",
    ]


def test_a_table_of_contents_that_cannot_be_read_gets_one_line(chapters):
    (chapters / "_toc.yml").write_text("format: jb-book\n", encoding="utf8")
    with pytest.raises(UserError, match=r"_toc\.yml: 'root' key not found"):
        lab.start_page(chapters)
    (chapters / "_toc.yml").write_text(TOC, encoding="utf8")
    (chapters / "chapters" / SET / "index.md").unlink()
    with pytest.raises(UserError, match=r"index\.md: is named in _toc\.yml"):
        lab.start_page(chapters)
