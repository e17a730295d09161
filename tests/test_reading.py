"""The book as it is read: by keyboard, by touch, on a phone, on paper, and by those who hear it."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest
from browser import chromium, serve

from rnn2rag import doctor
from rnn2rag.authoring import book, editions, handouts
from rnn2rag.errors import UserError

ROOT = Path(__file__).parents[1]
SECTION = "chapters/01-recurrent-networks/recurrent-cell.html"
TYPESET = "async () => { await window.MathJax?.startup?.promise; }"

# Notes each element that gets the focus, and whether the page shows where the focus is.
FOLLOW = """addEventListener("focusin", (event) => {
    const marked = (element) => {
        const style = getComputedStyle(element);
        return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
    };
    const target = event.target;
    (window.visited ??= []).push([target, [target, ...target.children].some(marked)]);
});"""
# What there is to reach: its number, and then what the walk did not reach as it should.
REACHABLE = """() => {
    const kinds = "a[href], button, input, select, textarea, summary, [tabindex]";
    window.reachable = [...document.querySelectorAll(kinds)].filter(
        (element) => element.tabIndex >= 0 && !element.disabled && element.checkVisibility({ visibilityProperty: true })
    );
    return window.reachable.length;
}"""
WALKED = """() => {
    const name = (element) => element.outerHTML.slice(0, 100).replaceAll("\\n", " ");
    const way = visited.map(([element]) => element).slice(0, reachable.length);
    const wide = [...document.querySelectorAll("article *")].filter((element) =>
        ["auto", "scroll"].includes(getComputedStyle(element).overflowX) && element.checkVisibility()
        && element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 1);
    return [
        ...reachable.filter((element) => !way.includes(element)).map((element) => `not reached: ${name(element)}`),
        ...reachable.filter((element, at) => way[at] !== element).slice(0, 1)
            .map((element) => `out of order, or a trap, before: ${name(element)}`),
        ...visited.filter(([, marked]) => !marked).map(([element]) => `no visible focus: ${name(element)}`),
        ...wide.filter((element) => !way.includes(element) && !element.closest("[tabindex='0']"))
            .map((element) => `cannot be scrolled: ${name(element)}`),
        ...(reachable[0].getAttribute("href") === "#main-content" ? [] : ["no skip link first"]),
    ];
}"""

# A printed page from inside: what is shown that should not be, and what is cut.
PRINTED = """() => {
    const name = (element) => element.outerHTML.slice(0, 80).replaceAll("\\n", " ");
    const seen = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
    const navigation = "nav, button, input, .bd-sidebar-primary, .bd-sidebar-secondary, .prev-next-footer, .headerlink";
    const article = document.querySelector("article").getBoundingClientRect();
    const faded = (element) => element && (getComputedStyle(element).opacity < 1 || faded(element.parentElement));
    const explorers = [...document.querySelectorAll(".rnn2rag-explorer")];
    return [
        ...seen(navigation).map((element) => `shown: ${name(element)}`),
        ...seen("details:not([open])").map((element) => `folded: ${name(element)}`),
        ...seen("details > *").filter(faded).map((element) => `not yet there: ${name(element)}`),
        ...seen("article :is(pre, table, svg, mjx-container, p)")
            .filter((element) => element.getBoundingClientRect().right > article.right + 1)
            .map((element) => `cut: ${name(element)}`),
        ...explorers.filter((explorer) => [...explorer.querySelectorAll("[data-frame]")]
            .filter((frame) => frame.checkVisibility()).length !== 1).map((explorer) => `figures of ${name(explorer)}`),
        ...(getComputedStyle(document.body).backgroundColor === "rgb(255, 255, 255)" ? [] : ["not on white"]),
    ];
}"""


@pytest.fixture(scope="module")
def site():
    """The folder of the built book."""
    return book.build(ROOT).parent


@pytest.fixture(scope="module")
def pages(site):
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path != site / "index.html")


@pytest.mark.parametrize("width", [1440, 390])
def test_every_page_is_walked_by_tab(site, pages, width):
    problems = []
    with serve(site) as address, chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.add_init_script(FOLLOW)
        for name in pages:
            page.goto(f"{address}/{name}")
            page.evaluate(TYPESET)
            page.wait_for_timeout(400)  # the theme looks 300 ms after the last change for what can be scrolled
            for _ in range(page.evaluate(REACHABLE)):
                page.keyboard.press("Tab")
            problems += [f"{name}: {problem}" for problem in page.evaluate(WALKED)]
    assert not problems, "\n".join(problems)


def test_drawers_and_the_search_take_the_focus_and_give_it_back(site):
    with serve(site) as address, chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        page.goto(f"{address}/{SECTION}")
        for opener, name in OPENERS.items():
            button, dialog = page.locator(opener), page.get_by_role("dialog", name=name)
            for key in ("Enter", "Space"):
                button.focus()
                page.keyboard.press(key)
                dialog.wait_for(state="visible")
                assert dialog.evaluate("dialog => dialog.contains(document.activeElement)"), name
                page.keyboard.press("Escape")
                dialog.wait_for(state="hidden")
                assert button.evaluate("button => button === document.activeElement"), f"{name}, {key}"


OPENERS = {
    ".primary-toggle": "Contents",
    ".secondary-toggle": "On this page",
    ".search-button:not(.search-button-field)": "Search",
}


def test_the_sidebar_folds_and_takes_its_links_out_of_the_way(site):
    with serve(site) as address, chromium() as browser:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.goto(f"{address}/{SECTION}")
        button, link = page.locator(".primary-toggle"), page.locator("#pst-primary-sidebar a").first
        for folded in (True, False):
            button.focus()
            page.keyboard.press("Enter")
            link.wait_for(state="hidden" if folded else "visible")
            assert button.evaluate("button => button === document.activeElement")
            link.focus()
            assert link.evaluate("link => link === document.activeElement") is not folded


def test_a_wide_block_is_scrolled_by_keys(site):
    with serve(site) as address, chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        page.goto(f"{address}/{SECTION}")
        page.wait_for_timeout(400)
        block = page.locator("pre[tabindex='0']").first
        block.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.activeElement.scrollLeft > 0")


def test_paper_is_light_and_shows_everything(site, pages):
    problems = []
    with serve(site) as address, chromium() as browser:
        # as wide as A4 between its margins
        page = browser.new_context(viewport={"width": 680, "height": 900}, color_scheme="dark").new_page()
        for name in set(pages) - {"search.html"}:
            page.goto(f"{address}/{name}")
            page.evaluate(TYPESET)
            page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
            page.emulate_media(media="print")
            problems += [f"{name}: {problem}" for problem in page.evaluate(PRINTED)]
            page.emulate_media(media="screen")
            page.evaluate("() => dispatchEvent(new Event('afterprint'))")
            opened = page.locator("article details[open]").count()
            problems += [f"{name}: {opened} stay open after printing"] * bool(opened)
    assert not problems, "\n".join(problems)


def test_no_formula_is_wider_than_a_phone(site, pages):
    wide = "() => [...document.querySelectorAll('mjx-container')].filter((f) => f.scrollWidth > f.clientWidth + 1)"
    with serve(site) as address, chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        for name in pages:
            page.goto(f"{address}/{name}")
            page.evaluate(TYPESET)
            found = page.evaluate(wide + ".filter((f) => f.getAttribute('display')).map((f) => f.textContent)")
            assert not found, f"{name}: break these formulas into lines (aligned): {found}"


def test_the_words_in_a_figure_stay_legible_on_a_phone(site, pages):
    sizes = """() => [...document.querySelectorAll(".rnn2rag-figure svg text")].filter((text) => text.checkVisibility())
        .map((text) => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"""
    with serve(site) as address, chromium() as browser:
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        found = {}
        for name in pages:
            page.goto(f"{address}/{name}")
            found[name] = page.evaluate(sizes + ".filter((size) => size > 0)")
    assert min(min(of) for of in found.values() if of) >= 9


def test_an_explorer_is_moved_by_a_finger(site):
    with serve(site) as address, chromium() as browser:
        options = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
        page = browser.new_context(**options).new_page()
        found = [path for path in sorted(site.rglob("*.html")) if "rnn2rag-explorer" in path.read_text(encoding="utf8")]
        assert found
        for path in found:
            page.goto(f"{address}/{path.relative_to(site).as_posix()}")
            for explorer in page.locator(".rnn2rag-explorer").all():
                slider, frames = explorer.get_by_role("slider"), explorer.locator("[data-frame]")
                slider.scroll_into_view_if_needed()
                box = slider.bounding_box()
                for share, number in ((0.98, frames.count() - 1), (0.02, 0)):
                    page.touchscreen.tap(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
                    assert [frame.is_visible() for frame in frames.all()].index(True) == number
                assert box["height"] >= 24  # a finger is wide


def test_headings_go_down_by_one_and_landmarks_have_names(site, pages):
    problems = []
    with serve(site) as address, chromium() as browser:
        for width in (1440, 390):
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            for name in pages:
                page.goto(f"{address}/{name}")
                outline = page.locator("body").aria_snapshot()
                problems += [f"{name}, {width}: {problem}" for problem in _misplaced(outline)]
    assert not problems, "\n".join(problems)


LANDMARK = re.compile(
    r"^ *- (banner|complementary|contentinfo|form|main|navigation|region|search)\b( \"[^\"]*\")?(:?)", re.M
)
NAMELESS = re.compile(r"^ *- (link|button|slider|textbox|searchbox):?$", re.M)


def _misplaced(outline):
    """What is wrong with the headings and landmarks of a page, as the browser tells them to a screen reader."""
    main = outline[outline.index("- main:") :]
    before = 0
    for level in map(int, re.findall(r"- heading .*\[level=(\d)\]", main)):
        if level > before + 1:
            yield f"a heading of level {level} under one of level {before}"
        before = level
    landmarks = LANDMARK.findall(outline)
    kinds = [kind for kind, *_ in landmarks]
    for kind, name, filled in landmarks:
        if not filled:
            yield f"a landmark with nothing in it: {kind}"
        if kinds.count(kind) > 1 and (not name or landmarks.count((kind, name, filled)) > 1):
            yield f"{kinds.count(kind)} landmarks {kind}, one without a name of its own"
    yield from (f"a {kind} without a name" for kind in NAMELESS.findall(outline))


def test_what_is_misplaced_in_an_outline_is_told():
    outline = """\
- complementary
- navigation "One":
  - link
- navigation:
- main:
  - heading "A title" [level=1]
  - heading "Too deep" [level=3]
"""
    assert list(_misplaced(outline)) == [
        "a heading of level 3 under one of level 1",
        "a landmark with nothing in it: complementary",
        "2 landmarks navigation, one without a name of its own",
        "a link without a name",
    ]


def test_the_notebooks_are_handed_out_in_one_zip():
    first = handouts.pack(ROOT).read_bytes()
    path = handouts.pack(ROOT)
    assert path.read_bytes() == first
    with zipfile.ZipFile(path) as archive:
        held = {name.removeprefix("rnn2rag-notebooks/"): archive.read(name) for name in archive.namelist()}
    wheel = next(name for name in held if name.endswith(".whl"))
    readme = held["README.md"].decode()
    assert wheel in readme and re.search(r"install torch==\d\S+ --index-url", readme)
    given = [editions.edition_path(source) for source in editions.sources(ROOT)]
    given += (ROOT / "exercises").glob("*/*.ipynb")
    assert {name for name in held if name.endswith(".ipynb")} == {path.relative_to(ROOT).as_posix() for path in given}
    assert all(held[path.relative_to(ROOT).as_posix()] == path.read_bytes() for path in given)
    assert not [name for name, data in held.items() if b"### BEGIN SOLUTION" in data or b"### BEGIN HIDDEN" in data]


@pytest.fixture
def small_book(tmp_path):
    """A book of two pages that have a formula, and a heading and a footnote of the same name."""
    shutil.copyfile(ROOT / "_config.yml", tmp_path / "_config.yml")
    shutil.copytree(ROOT / "assets", tmp_path / "assets")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n  - file: chapters/first\n")
    (tmp_path / "chapters").mkdir()
    page = "# {0}\n\n## What follows\n\n$E = mc^2$[^note]\n\n[^note]: {0}, below.\n"
    (tmp_path / "intro.md").write_text(page.format("A small book"))
    (tmp_path / "chapters" / "first.md").write_text(page.format("Its only chapter"))
    return tmp_path


def test_the_book_is_printed_to_one_pdf_with_an_outline(small_book):
    with chromium():  # not run where there is none
        pass
    printed = book.print_pdf(small_book, doctor.browser_program(), doctor.BROWSER_OPTIONS)
    data = printed.read_bytes()
    assert data.startswith(b"%PDF") and b"file:///" not in data
    assert all(mark in data for mark in (b"/Outlines", b"/StructTreeRoot", b"(A small book)", b"(Its only chapter)"))
    assert data.count(b"/Title (What follows)") == 2
    assert len(re.findall(rb"/Type /Page\b", data)) == 2  # each page of the book begins a sheet
    assert b"MathJax_Math-Italic" in data  # formulas are set
    linked = set(re.findall(rb"/Dest /(\S+)", data))
    assert len(linked) == 4  # the note of each page and the way back from it have places of their own
    assert linked <= set(re.findall(rb"^/(\S+) \[\d+ 0 R /XYZ", data, re.M))


def test_without_a_browser_the_pdf_says_what_to_install(small_book):
    with pytest.raises(UserError, match="^the PDF needs Chromium.*apt-get install chromium"):
        book.print_pdf(small_book, str(small_book / "no-browser"), ())
