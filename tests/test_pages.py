"""Pages that the book makes from the course's own files, in a small course and in the real one."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
from browser import chromium, serve
from conftest import HEADER
from test_book import _open

from rnn2rag.authoring import book, editions
from rnn2rag.authoring.markdown import Library, Page
from rnn2rag.errors import UserError
from rnn2rag.execute import Run

ROOT = Path(__file__).parents[1]
CHAPTER = "03-small"
ADDRESS = "https://github.com/someone/course"

TOC = f"""format: jb-book
root: intro
chapters:
  - file: chapters/{CHAPTER}/index
    sections:
      - file: chapters/{CHAPTER}/second
      - file: chapters/{CHAPTER}/first
      - file: chapters/{CHAPTER}/problems
  - file: chapters/guide/status
  - file: chapters/guide/claims
  - file: chapters/guide/glossary
"""
PAGES = {
    "intro.md": "# A small book\n\n## One heading\n\nOf two sections.\n",
    f"chapters/{CHAPTER}/index.md": "# Small things\n\n## What for\n\nOpen gh/OWNER/NAME, or gh%2FOWNER%2FNAME.\n",
    f"chapters/{CHAPTER}/problems.md": "# Problems\n\n## What is in it\n\n```{problem-set}\n```\n",
    "chapters/guide/status.md": "# The notebooks\n\n```{notebook-status}\n```\n",
    "chapters/guide/claims.md": "# The claims\n\n```{claims-table}\n```\n",
    "chapters/guide/glossary.md": "# Glossary\n\n## Terms\n\n```{glossary}\nthing\n  It is < 2 & known.\n```\n",
}
SECTION = """# The {name} section

A {{term}}`thing` and {{term}}`other things <thing>`.

```{{run-box}}
```

## A sum

```{{code-cell}} ipython3
print(2 + 2)
```
"""
CLAIMS = {
    "sure": {"text": "Gain of <b>", "above": 0.0, "below": None, "tolerance": 0.0},
    "unsure": {"text": "Loss of it", "above": -1.0, "below": 9.5, "tolerance": 0.0},
}
PROBLEMS = """## Problem 1: the `first` one

Implement. Difficulty 2 of 5, 15 minutes, 6 points. Taught in [it](../../chapters/03-small/first.ipynb).

## Problem 2: another

Answer in words. Difficulty 3 of 5, 8 minutes, 1 point. Taught in [that](../../chapters/03-small/second.ipynb).

## Hidden tests
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The tree of a small course: two sections, one of them over its budget, with claims, a problem set, a glossary."""
    tree = tmp_path_factory.mktemp("course")
    shutil.copyfile(ROOT / "_config.yml", tree / "_config.yml")
    shutil.copytree(ROOT / "assets", tree / "assets")
    shutil.rmtree(tree / "assets" / "claims")
    (tree / "_toc.yml").write_text(TOC, encoding="utf8")
    for name, text in PAGES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf8")
    write_section(tree, "first", cpu_seconds=12.34)
    write_section(tree, "second", cpu_seconds=71.0)
    write_sweep(tree, seeds=10)
    write_problems(tree, PROBLEMS, points=(3, 3, 1))
    return tree


@pytest.fixture(scope="module")
def private(course):
    """The pages of the small course, as it is: without a public address."""
    return read(course)


@pytest.fixture(scope="module")
def public(course, private):
    """The pages of the small course with a public address."""
    set_address(course, ADDRESS)
    for source in editions.sources(course):  # their first cells now know where the package is
        editions.rewrite(source, Library.of(course))
    return read(course)


def write_section(tree, name, cpu_seconds):
    source = tree / "chapters" / CHAPTER / f"{name}.md"
    source.write_text(HEADER + SECTION.format(name=name), encoding="utf8")
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    run = Run(editions.read(source), 1.0, cpu_seconds=cpu_seconds, peak_memory=456_000_000, versions=versions)
    editions.write(source, run, Library.of(ROOT))


def write_sweep(tree, seeds):
    values = {str(seed): {"sure": 2 + seed / 1000, "unsure": float(seed + 1)} for seed in range(seeds)}
    stored = {"section": f"chapters/{CHAPTER}/first.md", "recipe": "", "claims": CLAIMS, "seconds": 1, "seeds": values}
    path = tree / "assets" / "claims" / "03-first.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(stored), encoding="utf8")


def write_problems(tree, prose, points):
    cells = [{"cell_type": "markdown", "metadata": {}, "source": prose.splitlines(keepends=True)}]
    cells += [{"cell_type": "code", "metadata": {"nbgrader": {"points": value}}, "source": []} for value in points]
    path = tree / "exercises" / CHAPTER / "small.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf8")


def set_address(tree, address):
    config = (ROOT / "_config.yml").read_text(encoding="utf8")
    changed = config.replace("    # public_address:\n", f"    public_address: {address}\n")
    assert changed != config
    (tree / "_config.yml").write_text(changed, encoding="utf8")


def read(tree):
    """Build a tree's book and return its pages by name, as HTML."""
    site = book.build(tree).parent
    return {
        path.relative_to(site).with_suffix("").as_posix(): path.read_text(encoding="utf8")
        for path in site.rglob("*.html")
    }


def tables(page):
    """The tables of a page: rows of cells, as text."""
    found = re.findall(r"<table.*?</table>", page, re.S)
    rows = [re.findall(r"<tr.*?</tr>", table, re.S) for table in found]
    return [[[words(cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.S)] for row in table] for table in rows]


def words(page):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


# The small course


def test_the_status_page_has_every_section_in_the_order_of_the_contents(private):
    page = private["chapters/guide/status"]
    assert "3. Small things" in words(page)
    (table,) = tables(page)
    assert [row[:4] for row in table[1:]] == [
        ["The second section", "71.0", "456 MB", "over"],
        ["The first section", "12.3", "456 MB", "held"],
        ["Together", "83.3", "", ""],
    ]
    assert table[2][4:] == ["CPU, 1 thread", "python 3.11.7, torch 2.13.0", "first.ipynb"]


def test_claims_are_told_in_words_with_what_the_seeds_gave(private):
    (table,) = tables(private["chapters/guide/claims"])
    assert table[1:] == [
        ["Gain of <b>", "above 0", "10", "2", "2", "2.01", "all"],
        ["Loss of it", "above -1, below 9.5", "10", "1", "5.5", "10", "9 of 10, uncertain"],
    ]
    (link,) = re.findall(r'href="([^"]*)"><span[^>]*>The claims', private[f"chapters/{CHAPTER}/first"])
    assert link == "../guide/claims.html#claims-03-first" and 'id="claims-03-first"' in private["chapters/guide/claims"]
    assert "The claims of this section" not in private[f"chapters/{CHAPTER}/second"]


def test_a_problem_set_is_what_its_notebook_says(private):
    page = private[f"chapters/{CHAPTER}/problems"]
    assert "Problems: 2. Together: about 23 minutes, 7 points." in words(page)
    (table,) = tables(page)
    assert table[1:] == [
        ["1. The first one", "implement", "2 of 5", "15", "6", "The first section"],
        ["2. Another", "answer in words", "3 of 5", "8", "1", "The second section"],
    ]
    assert re.search(r'href="[^"]*_downloads/\w+/small\.ipynb"', page)


def test_nothing_points_to_an_address_that_the_course_does_not_have(private):
    assert not [name for name, page in private.items() if re.search("github.com|colab|Edit this page", page)]


def test_with_an_address_pages_can_be_edited_reported_and_opened(public):
    colab = "https://colab.research.google.com/github/someone/course/blob/main"
    page = public[f"chapters/{CHAPTER}/problems"]
    assert f'href="{colab}/exercises/{CHAPTER}/small.ipynb"' in page
    assert f'href="{ADDRESS}/edit/main/chapters/{CHAPTER}/problems.md"' in page
    assert f'href="{ADDRESS}/issues/new?title=Mistake%20in%20chapters/{CHAPTER}/problems.md"' in page
    assert f'%pip install "rnn2rag @ git+{ADDRESS}"' in words(page)
    section = public[f"chapters/{CHAPTER}/first"]
    assert f'href="{colab}/chapters/{CHAPTER}/first.ipynb"' in section
    assert "%pip install" not in section and "@title" not in section  # the notebook begins with it
    assert "Edit this page" not in public["search"]


def test_a_page_gives_the_address_that_the_course_has(private, public):
    index = f"chapters/{CHAPTER}/index"
    assert "Open gh/OWNER/NAME, or gh%2FOWNER%2FNAME." in words(private[index])
    assert "Open gh/someone/course, or gh%2Fsomeone%2Fcourse." in words(public[index])


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_the_pages_of_a_course_with_an_address_in_a_browser(course, public, scheme, width):
    with serve(course / "_build" / "html") as address, chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        problems = [
            problem for name in public if name != "index" for problem in _open(context, address, f"{name}.html")
        ]
    assert not problems, "\n".join(problems)


def test_what_an_author_left_out_is_named(course, public):
    write_sweep(course, seeds=4)
    write_problems(course, PROBLEMS.replace(" 8 minutes", " some minutes"), points=(3, 3, 1))
    with pytest.raises(UserError) as refused:
        book.build(course)
    said = str(refused.value)
    assert "03-first.json holds 4 of 10 seeds; run `rnn2rag claims chapters/03-small/first.md`" in said
    assert "solutions/03-small/small.md: problem 2 has no line as `Implement. Difficulty 2 of 5" in said
    assert "Traceback" not in said

    write_sweep(course, seeds=10)
    write_problems(course, PROBLEMS, points=(3, 3, 2))
    with pytest.raises(UserError, match=r"the problems name 7 points, its test cells give 8"):
        book.build(course)
    write_problems(course, PROBLEMS, points=(3, 3, 1))

    set_address(course, "someone/course")
    with pytest.raises(UserError, match=r"public_address is 'someone/course'; it has the form https://github.com/"):
        book.build(course)


def test_a_page_with_a_term_follows_the_glossary(course, public):
    set_address(course, ADDRESS)
    glossary = course / "chapters" / "guide" / "glossary.md"
    glossary.write_text(glossary.read_text(encoding="utf8").replace("known", "well known"), encoding="utf8")
    page = read(course)[f"chapters/{CHAPTER}/first"]
    assert page.count('aria-describedby="about-term-thing"') == 2
    assert page.count('id="about-term-thing" role="tooltip" popover="manual">It is &lt; 2 &amp; well known.<') == 1
    assert "terms.js" in page and "terms.js" not in public["intro"]


def test_a_term_is_plain_text_in_an_edition(tmp_path):
    page = Page(tmp_path / "a.md", Library(tmp_path))
    assert page.plain("A {term}`gate` and {term}`more gates <gate>`.") == "A gate and more gates."


# The real course


@pytest.fixture(scope="module")
def site():
    return book.build(ROOT).parent


def test_every_claim_on_the_page_is_one_that_its_section_holds(site):
    page = words((site / "chapters/guide/claims.html").read_text(encoding="utf8")).replace("’", "'")
    sweeps = [json.loads(path.read_text(encoding="utf8")) for path in (ROOT / "assets" / "claims").glob("*.json")]
    assert sweeps
    for sweep in sweeps:
        edition = json.loads((ROOT / sweep["section"]).with_suffix(".ipynb").read_text(encoding="utf8"))
        outputs = [output for cell in edition["cells"] for output in cell.get("outputs", ())]
        shown = words("".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs))
        for claim in sweep["claims"].values():
            assert claim["text"] in shown and claim["text"] in page


def test_references_name_the_sections_that_cite_them(site):
    page = (site / "chapters/guide/references.html").read_text(encoding="utf8")
    back = {
        re.search(r"doi\.org/([^\"]+)", entry)[1]: dict(re.findall(r'href="\.\./([\w/-]+)\.html#(id\d+)"', entry))
        for entry in page.split('class="citation"')[1:]
        if "doi.org" in entry
    }
    keys = {entry.fields["doi"]: key for key, entry in Library.of(ROOT).entries.items() if "doi" in entry.fields}
    sources = {path: path.read_text(encoding="utf8") for path in (ROOT / "chapters").glob("0*/*.md")}
    assert len(back) > 10
    for doi, places in back.items():
        cites = re.compile(r"\{cite:\w+\}`[^`]*\b" + keys[doi] + r"\b[^`]*`")
        citing = {
            path.relative_to(ROOT / "chapters").with_suffix("").as_posix()
            for path in sources
            if cites.search(sources[path])
        }
        assert places.keys() == citing, keys[doi]
        for name, anchor in places.items():
            assert f'id="{anchor}"' in (site / "chapters" / f"{name}.html").read_text(encoding="utf8")


@pytest.fixture
def opened(site):
    """Opens the first page of the real course that uses a term; gives the page, the link and its definition."""
    with serve(site) as address, chromium() as browser:

        def opened(**options):
            page = browser.new_context(**options).new_page()
            page.goto(f"{address}/chapters/01-recurrent-networks/parallel-recurrence.html")
            link = page.locator("a[aria-describedby^='about-term-']").first
            link.scroll_into_view_if_needed()
            return page, link, page.locator(f"#{link.get_attribute('aria-describedby')}")

        yield opened


def test_a_term_is_defined_at_the_pointer(opened):
    page, link, definition = opened()
    assert not definition.is_visible()
    link.hover()
    assert definition.is_visible() and len(definition.inner_text()) > 30
    definition.hover()  # the pointer may go there
    page.wait_for_timeout(500)
    assert definition.is_visible()
    page.keyboard.press("Escape")
    assert not definition.is_visible()
    link.hover()
    page.mouse.move(2, 2)
    definition.wait_for(state="hidden", timeout=2000)


def test_a_term_is_defined_at_the_focus(opened):
    page, link, definition = opened()
    link.focus()
    page.mouse.move(2, 2)
    page.wait_for_timeout(500)
    assert definition.is_visible()
    page.keyboard.press("Escape")
    assert not definition.is_visible()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert definition.is_visible()
    page.keyboard.press("Tab")
    definition.wait_for(state="hidden", timeout=2000)
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html#term-*")


def test_a_term_is_defined_at_the_first_tap(opened):
    page, link, definition = opened(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    link.tap()
    page.wait_for_timeout(500)
    assert definition.is_visible() and "glossary" not in page.url
    box = definition.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.locator("h1").tap()
    definition.wait_for(state="hidden", timeout=2000)
    link.tap()
    link.tap()
    page.wait_for_url("**/glossary.html#term-*")


def test_excerpts_of_a_search_have_no_latex(site):
    with serve(site) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}/search.html?q=error", wait_until="networkidle")
        page.locator("p.context").nth(5).wait_for()
        excerpts = page.locator("p.context").all_inner_texts()
    assert any("…" in excerpt for excerpt in excerpts)  # in the place of a formula
    assert not [excerpt for excerpt in excerpts if "\\" in excerpt]
