"""The book: built from this tree, then opened page by page in a real browser."""

import gzip
import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, serve
from conftest import secrets, text_of

from rnn2rag.authoring import book, editions
from rnn2rag.authoring.markdown import Library
from rnn2rag.errors import UserError
from rnn2rag.execute import Run

ROOT = Path(__file__).parents[1]

AXE = Axe()
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# preload would ask for style sheets at addresses that they do not have
RULES = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": LEVELS}, "preload": False}

FIRST_VIEW, NEXT_VIEW = 600_000, 150_000  # bytes over the wire

# What a page looks like from inside: counted in the browser, after its formulas are set.
LOOK = """async () => {
    await window.MathJax?.startup?.promise;
    const icons = [...document.querySelectorAll(".fa-solid, .admonition > .admonition-title, a.download")];
    const wrong = "mjx-merror, mjx-mtext[style*='red'], .math:not(:has(mjx-container))";
    const mask = (element, side) => getComputedStyle(element, side).maskImage;
    const drawn = (element) => (mask(element, "::before") + mask(element, "::after")).includes("svg");
    return {
        titles: document.querySelectorAll("h1").length,
        headings: document.querySelectorAll("h2").length,
        width: document.documentElement.scrollWidth,
        badFormulas: document.querySelectorAll(wrong).length,
        lostIcons: icons.filter((icon) => icon.checkVisibility() && !drawn(icon)).map((icon) => icon.outerHTML),
        unnamedFigures: document.querySelectorAll("figure svg:not([aria-label], :has(title)), img:not([alt])").length,
    };
}"""


@pytest.fixture(scope="module")
def site():
    """The folder of the built book. A build of what has not changed takes seconds."""
    return book.build(ROOT).parent


@pytest.fixture(scope="module")
def pages(site):
    """Every page but index.html, which only sends the reader on to the first."""
    assert "url=intro.html" in (site / "index.html").read_text(encoding="utf8")
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path != site / "index.html")


def test_the_build_executes_nothing(site):
    assert "Executing notebook" not in (ROOT / "_build" / "book.log").read_text(encoding="utf8")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_in_a_browser(site, pages, scheme, width):
    problems = []
    with serve(site) as address, chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        for name in pages:
            found = _open(context, address, name)
            problems += [f"{name}: {problem}" for problem in found]
    assert len(pages) > 5
    assert not problems, "\n".join(problems)


def _open(context, address, name):
    """Open one page and return what is wrong with it."""
    problems = []
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on(
        "response", lambda answer: problems.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
    )
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((f"{address}/", "data:")) else problems.append(f"asks {request.url}")
        ),
    )
    page.goto(f"{address}/{name}", wait_until="load")
    look = page.evaluate(LOOK)
    if look["titles"] != 1:
        problems.append(f"has {look['titles']} h1")
    if not look["headings"] and name != "search.html":
        problems.append("has no h2")
    if look["width"] > page.viewport_size["width"]:
        problems.append(f"is {look['width']} px wide in a window of {page.viewport_size['width']}")
    problems += [
        f"axe, {rule['id']}: {node['html'][:200]}"
        for rule in AXE.run(page, options=RULES).response["violations"]
        for node in rule["nodes"]
    ]
    problems += [f"icon not drawn: {icon}" for icon in look["lostIcons"]]
    problems += [f"{what}: {look[what]}" for what in ("badFormulas", "unnamedFigures") if look[what]]
    page.close()
    return problems


def test_a_page_is_light(site, pages):
    with serve(site) as address, chromium() as browser:
        weights = {name: _weights(browser, address, name) for name in pages}
    known = weights["chapters/01-recurrent-networks/recurrent-cell.html"]
    first = {name: sum(files.values()) for name, files in weights.items()}
    after = {name: sum(files[url] for url in files.keys() - known.keys()) for name, files in weights.items()}
    assert not {name: weight for name, weight in first.items() if weight > FIRST_VIEW}
    assert not {name: weight for name, weight in after.items() if weight > NEXT_VIEW}


def _weights(browser, address, name):
    """The files that a page loads, by address, with their bytes over the wire from a server that compresses."""
    answers = []
    page = browser.new_page()
    page.on("response", lambda answer: answers.append(answer) if answer.url.startswith(address) else None)
    page.goto(f"{address}/{name}", wait_until="networkidle")
    page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    weights = {
        answer.url: len(answer.body()) if answer.url.endswith(".woff") else len(gzip.compress(answer.body()))
        for answer in answers
    }
    page.close()
    return weights


def test_an_explorer_is_moved_by_the_keyboard(site):
    found = [path for path in sorted(site.rglob("*.html")) if "rnn2rag-explorer" in path.read_text(encoding="utf8")]
    assert found
    with serve(site) as address, chromium() as browser:
        page = browser.new_page()
        for path in found:
            page.goto(f"{address}/{path.relative_to(site).as_posix()}")
            for explorer in page.locator(".rnn2rag-explorer").all():
                _move(page, explorer)


def _move(page, explorer):
    """Move through an explorer from its first figure to its last."""
    slider, drawings = explorer.get_by_role("slider"), explorer.locator("[data-frame] > svg")
    slider.focus()
    page.keyboard.press("Home")
    for number in range(drawings.count()):
        name = explorer.locator("[data-frame]").nth(number).get_attribute("data-frame")
        assert [n for n, drawing in enumerate(drawings.all()) if drawing.is_visible()] == [number]
        assert slider.get_attribute("aria-valuetext") == explorer.locator("output").inner_text() == name
        page.keyboard.press("ArrowRight")


def test_every_edition_and_release_can_be_downloaded_byte_for_byte(site, pages):
    offered = set()
    for name in pages:
        links = re.findall(r'href="([^"]*_downloads/[^"]+)"', (site / name).read_text(encoding="utf8"))
        offered |= {(site / name).parent.joinpath(link).resolve() for link in links}
    given = [editions.edition_path(source) for source in editions.sources(ROOT)]
    given += sorted((ROOT / "exercises").glob("*/*.ipynb"))
    assert given
    assert sorted((path.name, path.read_bytes()) for path in offered) == sorted(
        (path.name, path.read_bytes()) for path in given
    )
    assert offered == {path for path in (site / "_downloads").rglob("*") if path.is_file()}


def test_the_built_book_holds_no_solution_and_no_hidden_test(site):
    marks = {f"### {edge} {what}" for edge in ("BEGIN", "END") for what in ("SOLUTION", "HIDDEN TESTS")}
    files = [
        path for path in site.rglob("*") if path.suffix in {".html", ".ipynb", ".js", ".txt", ".md", ".py", ".json"}
    ]
    assert {".html", ".ipynb", ".js"} <= {path.suffix for path in files}
    texts = {path.relative_to(site): text_of(path) for path in files}
    leaks = [f"{path}: {line}" for path, text in texts.items() for line in secrets() | marks if line in text]
    assert not leaks, "\n".join(leaks)
    assert not [path for path in site.rglob("*") if "misconceptions" in path.name or path.suffix in {".md", ".py"}]


@pytest.fixture
def small_tree(tmp_path):
    """A book of two pages, one of them a section with an edition."""
    for name in ("_config.yml", "assets"):
        original = ROOT / name
        (shutil.copytree if original.is_dir() else shutil.copyfile)(original, tmp_path / name)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n  - file: chapters/03-small/section\n")
    (tmp_path / "intro.md").write_text("# A small book\n\n## One heading\n\nSee {doc}`chapters/03-small/section`.\n")
    section = tmp_path / "chapters" / "03-small" / "section.md"
    section.parent.mkdir(parents=True)
    section.write_text(SECTION, encoding="utf8")
    _write_edition(section, cpu_seconds=12.3)
    return tmp_path


SECTION = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A section

```{run-box}
```

## A sum

```{code-cell} ipython3
print(2 + 2)
```
"""


def _write_edition(section, cpu_seconds):
    """Write an edition as a run would: the same cell, and what it printed."""
    from nbformat.v4 import new_output

    notebook = editions.read(section)
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.outputs = [new_output("stream", name="stdout", text="four, from the edition\n")]
    run = Run(
        notebook, wall_seconds=13.0, cpu_seconds=cpu_seconds, peak_memory=456_000_000, versions={"torch": "2.13.0"}
    )
    editions.write(section, run, Library.of(section.parents[2]))


def test_pages_follow_their_editions_and_warnings_fail_every_time(small_tree):
    section = small_tree / "chapters" / "03-small" / "section.md"
    page = small_tree / "_build" / "html" / "chapters" / "03-small" / "section.html"
    assert book.build(small_tree).is_file()
    first = text_of(page)
    assert "four, from the edition" in first  # and not what executing the cell would print
    assert "12 CPU-seconds" in first and "456 MB" in first and "torch 2.13.0" in first

    intro = (small_tree / "intro.md").read_text()
    (small_tree / "intro.md").write_text(intro.replace("03-small/section", "03-small/nowhere"))
    for _ in range(2):  # Sphinx itself would forget the warning of a page that it has read
        with pytest.raises(UserError, match=r"intro\.md.*nowhere"):
            book.build(small_tree)

    (small_tree / "intro.md").write_text(intro)
    _write_edition(section, cpu_seconds=34.5)
    book.build(small_tree)
    assert "34 CPU-seconds" in text_of(page)


def test_a_stale_edition_is_refused(small_tree):
    section = small_tree / "chapters" / "03-small" / "section.md"
    section.write_text(SECTION.replace("2 + 2", "2 + 3"), encoding="utf8")
    with pytest.raises(UserError, match="section.ipynb"):
        book.build(small_tree)
    assert not (small_tree / "_build").exists()
