"""What people read after grading: a student's page, nbgrader's own page, the class report. Nothing hidden leaks."""

import copy
import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import chromium
from conftest import COURSE, ROOT, SET, copy_set, graded_cell, load, make_tree, rnn2rag
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from rnn2rag import checks, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import feedback, report, worker
from rnn2rag.grading.results import Result

NAME = "recurrent-networks.ipynb"
PLANTED = (COURSE / "solutions" / SET / "misconceptions.py").read_text(encoding="utf8")
RIGHT, MISTAKEN = "one_sequence_after_the_other", "swapped_shares"
SECTION = "The recurrent cell and backpropagation through time"


def filled(answer=None, inside="", after="", words=""):
    """The released notebook with a planted answer filled in, code inside and after it, and the question answered."""
    nb = load(COURSE / "exercises" / SET / NAME)
    if answer:
        source = re.search(rf"^def {answer}\(.*?(?=^@|\Z)", PLANTED, re.S | re.M)[0].strip()
        head, _, body = source.replace(answer, "leaky_states").partition("\n")
        graded_cell(nb, "leaky-cell")["source"] = "\n".join([head, *inside.splitlines(), body, after])
    if words:
        graded_cell(nb, "leak-and-error")["source"] = words
    return nb


def with_cell(nb, source, after="leaky-cell"):
    """The notebook with a code cell of the student's own."""
    place = nb["cells"].index(graded_cell(nb, after)) + 1
    nb["cells"].insert(place, {**new_code_cell(source), "id": f"own-{place}"})
    return nb


def hidden_first(nb):
    """The notebook with its hidden test above the visible one."""
    cell = graded_cell(nb, "leaky-cell-hidden")
    nb["cells"].remove(cell)
    nb["cells"].insert(nb["cells"].index(graded_cell(nb, "leaky-cell-test")), cell)
    return nb


# Code that tells what it sees wherever it can; only hidden inputs have four rows. The word itself is not in the code.
TELL = """
    import sys, warnings
    word = chr(76) + "EAKED"
    if len(inputs) == 4:
        text = f"{word} {inputs.flatten()[:3].tolist()}"
        print(text)
        print(text, file=sys.stderr)
        warnings.warn(text)
        board.update({"text/plain": text, "text/html": text}, raw=True)
        seen.append(text)
"""
BOARD = "from IPython.display import display\nseen = []\nboard = display('nothing yet', display_id='board')"
MARKUP = "</pre></code><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
NASTY = "[read](javascript:window.ran=1) \x00 \u202eevil\u202c \x1b[31mred\x1b[0m " + MARKUP
CLASS = {
    "Ada": filled(RIGHT, words="The plain cell keeps nothing, the leaky one a third."),
    "Ben": filled(MISTAKEN, inside="    print('shape', tuple(inputs.shape))"),
    "Cleo": filled(),
    "Eve": with_cell(filled(RIGHT, inside=TELL), BOARD, after="leaky-cell-test"),
    "Finn": with_cell(filled(RIGHT, inside=TELL + "        raise type(text, (BaseException,), {})"), BOARD),
    "Gus": filled(RIGHT, after="import os\nos._exit(1)"),
    "Hal": hidden_first(
        with_cell(filled(RIGHT, inside=TELL + "    elif seen:\n        raise ValueError(seen[-1])"), BOARD)
    ),
    "Hugo": "this is not JSON",
    "Mal": with_cell(
        filled(RIGHT, inside=f"    print({NASTY!r} + 'x' * 10**6)", words=NASTY),
        f"# \u202e {MARKUP}\n# {'y' * 10**6}\nraise ValueError({NASTY!r})",
    ),
}


@pytest.fixture(scope="module")
def klass(tmp_path_factory):
    """A class graded by the command: the tree, the results and the graded notebooks by student."""
    tree = make_tree(tmp_path_factory.mktemp("class"))
    copy_set(tree)
    shutil.copy(ROOT / "_config.yml", tree / "_config.yml")
    shutil.copy(ROOT / "chapters" / SET / "recurrent-cell.md", tree / "chapters" / SET)
    for student, nb in CLASS.items():
        path = tree / "submitted" / student / SET / NAME
        path.parent.mkdir(parents=True)
        path.write_text(nb if isinstance(nb, str) else json.dumps(nb), encoding="utf8")
    status, stdout, stderr = rnn2rag(tree, "grade", SET, "--json")
    assert status == 1 and "Traceback" not in stderr, stderr
    fields = {field.name for field in dataclasses.fields(Result)}
    results, notebooks = {}, {}
    for said in json.loads(stdout):
        result = Result(**{key: value for key, value in said.items() if key in fields})
        results[result.student] = result
        if not result.refused:
            notebooks[result.student] = execute.read(tree / "autograded" / result.student / SET / NAME)
            result.cells = worker.cell_scores(notebooks[result.student])
    return tree, results, notebooks


def page_of(klass, student, reviews=None, **changes):
    tree, results, notebooks = klass
    result = dataclasses.replace(results[student], **changes)
    return feedback.page(tree, SET, notebooks.get(student), result, reviews)


def text_of(page):
    """What a reader sees."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def hidden_lines():
    """The lines of the hidden test that stand nowhere else."""
    text = (COURSE / "solutions" / SET / "recurrent-networks.md").read_text(encoding="utf8")
    hidden = re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END", text, re.S)[1]
    lines = {line.strip() for line in hidden.splitlines() if len(line.strip()) > 12}
    return [" ".join(line.split()) for line in lines if text.count(line) == 1 and not line.startswith("@")]


# A student's page


def test_a_page_shows_points_tests_and_the_answer_beside_them(klass):
    page = page_of(klass, "Ben")
    text = text_of(page)
    assert "Problem set 1: recurrent networks" in text and "Feedback for Ben" in text and "2 of 8 points" in text
    assert re.search(r"✓ passed: has one state for each step 1 of 1", text)
    assert re.search(r"✗ failed: agrees with the hand calculation 0 of 1 The shares are swapped: the old state", text)
    assert re.search(r"✗ failed: gives the right states for other shapes, lengths and weights 0 of 2", text)
    assert "def leaky_states ( inputs" in text and '<span class="k">def</span>' in page
    assert "Your code printed here: shape (1, 2, 1) shape (2, 3, 1)" in text
    assert f"Taught in {SECTION} ." in text and "href" not in page.replace('href="#problem-', "")


def test_hidden_tests_stand_with_their_problem(klass):
    first, second = page_of(klass, "Ada").split("<section")[1:]
    assert "Hidden tests: 3 of 3 points" in first and "Hidden tests" not in second.split("<footer")[0]
    assert "The plain cell keeps nothing, the leaky one a third." in second


def test_other_cells_stand_with_the_problem_under_whose_heading_they_are(klass):
    tree, results, notebooks = klass
    nb = copy.deepcopy(notebooks["Ada"])
    for grade_id in ("leaky-cell", "leak-and-error"):
        place = nb.cells.index(graded_cell(nb, grade_id))
        nb.cells.insert(place, new_code_cell(f"before = '{grade_id}'", execution_count=1))
        nb.cells.insert(place + 2, new_code_cell(f"behind = '{grade_id}'", execution_count=1))
    sections = [text_of(part) for part in feedback.page(tree, SET, nb, results["Ada"]).split("<section")[1:]]
    for text, grade_id in zip(sections, ("leaky-cell", "leak-and-error"), strict=True):
        assert re.findall(r"(\w+) = '([\w-]+)'", text) == [("before", grade_id), ("behind", grade_id)]


def test_a_link_leads_to_the_published_book(klass, tmp_path):
    tree, results, notebooks = klass
    shutil.copytree(tree / "solutions", tmp_path / "solutions")
    shutil.copytree(tree / "chapters", tmp_path / "chapters")
    (tmp_path / "_config.yml").write_text("title: T\nhtml: {baseurl: https://example.org/book/}\n", encoding="utf8")
    page = feedback.page(tmp_path, SET, notebooks["Ada"], results["Ada"])
    address = f"https://example.org/book/chapters/{SET}/recurrent-cell.html"
    assert re.findall(r'<a href="([^#"][^"]*)"[^>]*>([^<]*)<', page) == [(address, SECTION)] * 2
    (tmp_path / "_config.yml").write_text("html: {baseurl: 'javascript:alert(1)'}\n", encoding="utf8")
    assert "javascript" not in feedback.page(tmp_path, SET, notebooks["Ada"], results["Ada"])


def test_what_waits_and_what_a_person_gave(klass):
    waiting = text_of(page_of(klass, "Ada"))
    assert "Some answers wait for a person." in waiting and "Waits for a person: 2 points" in waiting
    reviews = {
        "leak-and-error": {"score": 1.5, "comment": "Which <cost>?"},
        "leaky-cell": {"score": None, "comment": "Well put."},
        "leaky-cell-test": {"score": 2.5, "comment": None},
    }
    given = text_of(page_of(klass, "Ada", reviews, manual=False))
    assert "Read by a person: 1.5 of 2 points Comment Which <cost>?" in given and "Well put." in given
    assert "A person changed the points of this test from 3 to 2.5." in given and "wait" not in given
    untouched = text_of(page_of(klass, "Cleo"))
    assert "Not answered: 0 of 2 points" in untouched and "Some answers wait" not in untouched


def test_lateness_is_said_in_words(klass):
    text = text_of(page_of(klass, "Ada", late=93_600.0, penalty=1.5, points=4.5))
    assert "4.5 of 8 points 1.5 points taken off because it came 1 day 2 h late." in text
    assert "It came 10 min late; no points are taken off for that." in text_of(page_of(klass, "Ada", late=600.0))


def test_a_refusal_and_a_death_are_said_in_words(klass):
    tree, results, _ = klass
    refused = text_of(page_of(klass, "Hugo", refused=f"{tree}/submitted/Hugo: is not a notebook"))
    assert (
        "This submission could not be graded. submitted/Hugo: is not a notebook" in refused and " of 8" not in refused
    )
    dead = text_of(page_of(klass, "Gus"))
    assert "Your notebook did not run to its end." in dead and "sent no answer" not in dead
    assert dead.count("This test did not run to its end: the notebook's process ended before that.") == 2
    assert any("the kernel died" in note for note in results["Gus"].notes)


def test_an_error_in_a_cell_of_the_students_own_is_shown_beside_it(klass):
    assert "This cell stopped with ValueError: [read](javascript" in text_of(page_of(klass, "Mal"))


@pytest.mark.parametrize("student", sorted(set(CLASS) - {"Hugo"}))
def test_a_page_hides_what_is_hidden(klass, student):
    tree, results, _ = klass
    result = dataclasses.replace(results[student], notes=["for the instructor alone"])
    for page in (page_of(klass, student, notes=result.notes), (tree / result.feedback).read_text(encoding="utf8")):
        text = text_of(page)
        assert "gives the right states for other shapes, lengths and weights" in text
        assert len(hidden_lines()) > 15 and not [line for line in hidden_lines() if line in text]
        assert not re.search("LEAKED|make_batch|BEGIN HIDDEN|instructor alone|equals the formula", text + page)
        assert not [other for other in set(CLASS) - {student} if re.search(rf"\b{other}\b", text)]


def test_what_spies_told_is_in_the_graded_notebooks(klass):
    """Else the test above proves nothing."""
    for student in ("Eve", "Finn", "Hal"):
        outputs = [cell.get("outputs", []) for cell in klass[2][student].cells]
        assert "LEAKED" in json.dumps(outputs), student
    assert any("LEAKED" in message for message in klass[1]["Hal"].messages)


def test_a_test_below_hidden_ones_keeps_its_message(klass):
    text = text_of(page_of(klass, "Hal"))
    assert "What it said is left out, for it stands below hidden tests" in text
    assert "✗ failed: has one state for each step 0 of 1" in text


def test_hidden_rungs_that_the_set_does_not_describe_are_not_named(klass):
    tree, results, notebooks = klass
    lie = {"name": "LEAKED", "possible": 1.5, "points": 1.5, "message": "LEAKED", "hidden": False}
    cells = [copy.deepcopy(cell) for cell in results["Ada"].cells]
    cells[1].rungs.append(lie)
    page = feedback.page(tree, SET, notebooks["Ada"], dataclasses.replace(results["Ada"], cells=cells))
    assert "LEAKED" not in page and "more hidden tests 1.5 of 1.5" in text_of(page)


FOREIGN = """() => {
    const foreign = "script, img, iframe, object, embed, link, form, [href^=javascript]";
    const names = [...document.querySelectorAll("*")].flatMap((element) => element.getAttributeNames());
    return {
        ran: window.ran,
        width: document.documentElement.scrollWidth,
        foreign: document.querySelectorAll(foreign).length,
        handlers: names.filter((name) => name.startsWith("on")).length,
    };
}"""


def test_a_page_never_runs_what_a_student_wrote(klass, tmp_path):
    tree, results, notebooks = klass
    name = f"{MARKUP}\u202e"
    path = tmp_path / "page.html"
    reviews = {"leak-and-error": {"score": 1, "comment": NASTY}}
    mal = dataclasses.replace(results["Mal"], student=name)
    pages = [
        feedback.page(tree, SET, notebooks["Mal"], mal, reviews),
        feedback.page(tree, SET, None, Result(name, refused=NASTY)),
        report.page(tree, SET, [mal, Result("Mo", refused=NASTY), odd(NASTY)], [(name, notebooks["Mal"])]),
    ]
    with chromium() as browser:
        # Without the page's own policy, which forbids every script, only the escaping is left.
        context = browser.new_context(viewport={"width": 390, "height": 800}, bypass_csp=True)
        for content in pages:
            path.write_text(content, encoding="utf8")
            asked = []
            page = context.new_page()
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            found = page.evaluate(FOREIGN)
            assert found == {"ran": None, "width": 390, "foreign": 0, "handlers": 0} and asked == [path.as_uri()]
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", content)
            assert len(content) < 100_000


def odd(text):
    """A result with a text in every place that a report shows."""
    rung = {"name": text, "possible": 1.0, "points": 0.0, "message": text, "hidden": False}
    cell = worker.CellScore("leaky-cell-test", 0.0, 3.0, [rung], [text], text)
    return Result(text, 0.0, 8.0, notes=[text], cells=[cell], late=60.0, sandbox="none", seconds=1.0)


def test_long_code_is_shortened_with_a_note(klass):
    page = page_of(klass, "Mal")
    assert "Left out here: 999,702 more characters in long lines." in page and "Left out here: 999," in page
    tree, results, notebooks = klass
    nb = copy.deepcopy(notebooks["Ada"])
    graded_cell(nb, "leaky-cell")["source"] += "\n    pass" * 5000
    for number in range(3000):
        nb.cells.insert(3, new_code_cell(f"x = {number}", execution_count=1))
    page = feedback.page(tree, SET, nb, results["Ada"])
    assert re.search(r"Left out here: 4,\d\d\d more lines", page) and len(page) < 100_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_in_a_browser(klass, tmp_path, scheme, width):
    tree, results, notebooks = klass
    pages = {student: page_of(klass, student) for student in CLASS}
    pages["report"] = report.page(tree, SET, list(results.values()), notebooks.items())
    problems, requests = [], []
    with chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        for name, content in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(content, encoding="utf8")
            page = context.new_page()
            page.on("console", lambda message: problems.append(message.text))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(path.as_uri())
            look = page.evaluate(LOOK)
            assert (look["width"], look["titles"], look["lang"]) == (width, 1, "en"), name
            assert look["faint"] == [], (name, look["faint"])
            assert look["skipped"] == 0 and look["duplicates"] == 0
            if name == "Ben":
                assert look["columns"] == (2 if width > 1000 else 1)
            page.close()
    assert problems == [] and len(requests) == len(pages)


# Contrast of every text with what lies behind it, the order of headings, ids.
LOOK = """() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => parts(color).slice(0, 3).map((c) => c / 255)
        .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if ((parts(color)[3] ?? 1) > 0) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const faint = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
        && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).filter((e) => {
        const style = getComputedStyle(e);
        const [a, b] = [light(e.closest("svg") ? style.fill : style.color), light(behind(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05) < 4.5;
    }).map((e) => e.outerHTML.slice(0, 80));
    const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((h) => Number(h.tagName[1]));
    const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
    const problem = document.querySelector(".problem");
    return {
        width: document.documentElement.scrollWidth,
        titles: document.querySelectorAll("h1").length,
        lang: document.documentElement.lang,
        skipped: levels.filter((level, i) => i && level > levels[i - 1] + 1).length,
        duplicates: ids.length - new Set(ids).size,
        columns: problem ? getComputedStyle(problem).gridTemplateColumns.split(" ").length : 0,
        faint,
    };
}"""


def test_a_page_takes_little_time(klass):
    page_of(klass, "Ben")
    times = []
    for _ in range(20):
        start = time.process_time()
        page_of(klass, "Ben")
        times.append(time.process_time() - start)
    assert sorted(times)[10] < 0.02


def test_a_set_that_is_not_made_is_one_line(tmp_path):
    tree = make_tree(tmp_path)
    copy_set(tree)
    (tree / "solutions" / SET / NAME).unlink()
    with pytest.raises(UserError, match=f"^solutions/{SET}: its notebook is not made yet; run `make exercises`$"):
        feedback.page(tree, SET, None, Result("Ada"))


# nbgrader's own page


def nbgrader(tree, *arguments):
    program = str(Path(sys.executable).with_name("nbgrader"))
    run = subprocess.run([program, *arguments], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("regraded", [False, True], ids=["graded by us", "graded by nbgrader"])
def test_stock_feedback_leaks_nothing(klass, tmp_path, regraded):
    tree = tmp_path / "course"
    shutil.copytree(klass[0], tree)
    if regraded:
        nbgrader(tree, "autograde", SET, "--student=Eve", "--force")
        graded = (tree / "autograded" / "Eve" / SET / NAME).read_text(encoding="utf8")
        assert "LEAKED" in graded
    nbgrader(tree, "generate_feedback", SET, "--force", *(["--student=Eve"] if regraded else []))
    for student in ("Eve",) if regraded else ("Ben", "Eve", "Finn", "Gus", "Hal"):
        page = (tree / "feedback" / student / SET / NAME).with_suffix(".html").read_text(encoding="utf8")
        text = text_of(page)
        assert "gives the right states for other shapes, lengths and weights" in text
        assert not [line for line in hidden_lines() if line in text]
        assert "LEAKED" not in page and "make_batch" not in text
        if student == "Ben":
            assert "The shares are swapped" in text and "shape (1, 2, 1)" in text


def hide(*cells, **metadata):
    nb = from_dict({**load(COURSE / "exercises" / SET / NAME), "cells": list(cells)})
    nb.metadata.update(metadata)
    feedback.HideTests().preprocess(nb, {})
    return nb


def test_cell(source, *outputs, points=2):
    data = {"grade": True, "solution": False, "locked": True, "grade_id": "t", "points": points}
    return new_code_cell(source, metadata={"nbgrader": data}, outputs=list(outputs), execution_count=1)


test_cell.__test__ = False
VISIBLE = "@p.verdict(probe, points=2)\ndef a_rung(x):\n    checks.equal(x, 1, instead={'A known mistake.': 2})"
HIDDEN = "# more\n### BEGIN HIDDEN TESTS\n@p.verdict(probe, 2, hidden='in public words')\ndef secret(x): ..."
HIDDEN += "\n### END HIDDEN TESTS"


def reported(name, message="", points=0.0, possible=2.0, hidden=False):
    rung = {"name": name, "possible": possible, "points": points, "message": message, "hidden": hidden}
    data = {checks.SCORE_MIME: {"rungs": [rung], "faults": []}, "text/html": "LEAKED", "text/plain": "LEAKED"}
    return new_output("display_data", data=data)


def result(text):
    return new_output("execute_result", data={"text/plain": text, "text/html": "LEAKED"}, execution_count=1)


LEAKS = {
    "a result": result("'LEAKED'"),
    "a picture": new_output("display_data", data={"image/svg+xml": "<svg>LEAKED</svg>"}),
    "a print": new_output("stream", name="stdout", text="LEAKED"),
    "stderr": new_output("stream", name="stderr", text="LEAKED"),
    "an error": new_output("error", ename="LEAKED", evalue="LEAKED", traceback=["LEAKED"]),
    "a report": reported("LEAKED", "LEAKED"),
    "a report of the rung": reported("in public words", "LEAKED", hidden=True),
    "a report in another's name": reported("secret", "LEAKED"),
}


@pytest.mark.parametrize("output", LEAKS.values(), ids=LEAKS)
def test_nothing_of_a_hidden_test_or_below_is_left(output):
    nb = hide(
        test_cell(HIDDEN, copy.deepcopy(output)),
        test_cell(VISIBLE, copy.deepcopy(output)),
        new_code_cell("1", outputs=[copy.deepcopy(output)]),
    )
    assert "LEAKED" not in json.dumps(nb) and "secret" not in json.dumps(nb)
    assert nb.cells[0].source == "# more" and nb.cells[2].outputs == []


@pytest.mark.parametrize("where", ["own", "visible"])
@pytest.mark.parametrize("kind", ["a result", "a picture", "a report"])
def test_what_a_later_cell_could_have_replaced_is_not_left(kind, where):
    own = new_code_cell("x") if where == "own" else test_cell(VISIBLE)
    own.outputs = [copy.deepcopy(LEAKS[kind]), new_output("stream", name="stdout", text="mine")]
    nb = hide(own, test_cell(HIDDEN), widgets={"state": "LEAKED"})
    assert "LEAKED" not in json.dumps(nb) and nb.cells[0].outputs[0].text == "mine"


def shown(nb, cell=0):
    return "\n".join(output.data["text/plain"] for output in nb.cells[cell].outputs)


def test_reports_and_points_are_left():
    cells = [
        test_cell(VISIBLE, reported("a rung", "A known mistake."), result("0.0")),
        test_cell(HIDDEN, reported("in public words", points=2.0, hidden=True), result("2.0")),
    ]
    nb = hide(*cells)
    assert "✗ 0/2 a rung A known mistake. 0" in " ".join(shown(nb).split())
    assert "✓ 2/2 in public words 2" in " ".join(shown(nb, 1).split())
    cells = [test_cell(VISIBLE, reported("a rung", "expected 1, got 3")), test_cell(HIDDEN)]
    assert "got 3" not in shown(hide(*copy.deepcopy(cells)))
    assert "expected 1, got 3" in shown(hide(*copy.deepcopy(cells), rnn2rag={}))


MARKS = ["BEGIN HIDDEN TESTS", "END HIDDEN TESTS"]
CONFUSED = {
    "a beginning": MARKS[:1],
    "an end": MARKS[1:],
    "two beginnings": [MARKS[0], MARKS[0]],
    "the wrong way round": MARKS[::-1],
}


@pytest.mark.parametrize("marks", CONFUSED.values(), ids=CONFUSED)
def test_marks_in_a_students_cell_change_nothing(marks):
    source = "\n".join(f"### {mark}\nx = 1" for mark in marks)
    solution = {"nbgrader": {"grade": True, "solution": True, "grade_id": "s", "points": 1}}
    nb = hide(
        new_code_cell(source), new_markdown_cell(source), new_code_cell(source, metadata=solution), test_cell(HIDDEN)
    )
    assert [cell.source for cell in nb.cells] == [source, source, source, "# more"]


def test_a_hidden_test_without_an_end_is_hidden_to_the_end():
    nb = hide(test_cell("# more\n### BEGIN HIDDEN TESTS\nsecret = 1"))
    assert nb.cells[0].source == "# more"


def test_a_notebook_without_hidden_tests_stays():
    cells = [new_code_cell("x", outputs=[copy.deepcopy(LEAKS["a picture"])]), test_cell(VISIBLE, result("1.0"))]
    assert hide(*copy.deepcopy(cells)).cells == from_dict({"cells": cells}).cells


# The class report


def test_a_report_sums_up_the_class(klass):
    tree, results, notebooks = klass
    page = report.page(tree, SET, list(results.values()), iter(notebooks.items()))
    text = text_of(page)
    assert "Submissions 9 Graded 8 Refused 1 Wait for a person 2" in text
    assert re.search(r"has one state for each step Problem 1: [^0-9]*5 of 8, 62%", text)
    assert "lets autograd follow every step back to the weights Problem 1: a leaky cell" in text
    assert "The shares are swapped: the old state keeps 1 - leak, the new value gets leak. 1 Ben" in text
    assert re.search(r"Not graded, because it Students Who is not a notebook: it is not JSON .*? 1 Hugo", text)
    assert "stopped: the kernel died 1 Gus" in text
    assert 'href="../feedback/Ben/01-recurrent-networks/recurrent-networks.html"' in page and "make_batch" not in page
    bars = [int(number) for number in re.findall(r'y="[\d.]+">(\d+)</text>\n(?!.*role)', page.split("</svg>")[0])]
    assert "<svg" in page and "1 with 2" in page and sum(bars) > 0
    assert (tree / "reports" / f"{SET}.html").read_text(encoding="utf8").count("<h2>") == page.count("<h2>")


def test_messages_that_differ_in_numbers_count_as_one(klass):
    def says(student, message):
        rung = {"name": "r", "possible": 1.0, "points": 0.0, "message": message, "hidden": False}
        return Result(student, cells=[worker.CellScore("leaky-cell-test", 0.0, 3.0, [rung, rung])])

    results = [
        says("Ada", "expected 0.19, got [1.5, -2e-05, nan] at [0, 1]"),
        says("Ben", "expected 1, got [3] at [2, 2]"),
        says("Cleo", "expected h2, got x"),
        says("Dora", "expected h3, got x"),
    ]
    text = text_of(report.page(klass[0], SET, results, []))
    assert "expected …, got […] at […] 2 Ada , Ben" in text
    assert "expected h2, got x 1 Cleo" in text and "expected h3, got x 1 Dora" in text


def test_the_report_names_what_is_odd(klass):
    rung = {"name": "r", "possible": 1.0, "points": 0.0, "message": "", "hidden": False}
    forbidden = {**rung, "message": "torch.nn.RNN is not allowed in this problem: write it yourself."}
    cell = worker.CellScore("leaky-cell-test", 0.0, 3.0, [rung, forbidden], ["r (KeyError('a'))"], "raised it")
    results = [
        Result("Ada", 1, 8, cells=[cell], sandbox="none", seconds=2.0, notes=["the cell 'x' is missing"]),
        Result("Ben", 7, 8, sandbox="bubblewrap", seconds=4.0, late=7200.0, penalty=0.5, kept=True),
        Result("Cleo", 7, 8, sandbox="bubblewrap", seconds=0.5, manual=True),
    ]
    text = text_of(report.page(klass[0], SET, results, []))
    assert "Tests of this set have faults." in text and "leaky-cell-test: r (KeyError('a')) 1 Ada" in text
    assert "1 submission ran without a sandbox." in text and "leaky-cell-test: raised it 1 Ada" in text
    assert "uses what the problem forbids: torch.nn.RNN 1 Ada" in text and "the cell 'x' is missing 1 Ada" in text
    assert "Ben 2 h 0.5" in text and "1 submission had not changed" in text
    assert "ran for 2 s (median)" in text and "Wait for a person 1 Mean points 5.0 of 8 Median 7" in text


def test_a_report_of_nobody(klass):
    text = text_of(report.page(klass[0], SET, [], []))
    assert "Submissions 0" in text and "None were found." in text


def planted(name):
    return re.search(rf"^def {name}\(.*?(?=^@|\Z)", PLANTED, re.S | re.M)[0].strip()


def renamed(source):
    """The same code after another's hand: other names, comments, layout, docstring."""
    source = re.sub(r"\bstates\b", "history", re.sub(r"\bstate\b", "h", re.sub(r"\bnew\b", "fresh", source)))
    head, _, body = source.partition("\n")
    body = re.sub(r"\n", "  # as it must be\n\n", body.replace(", ", " ,  "))
    return f'{head}\n    """My own words."""\n{body}'


RELEASE = (
    'def f(inputs, lengths):\n    """What it returns."""\n    # Write your code here.\n    raise NotImplementedError'
)


def groups(answers, given=""):
    found = {student: report.fragments(source) for student, source in answers.items()}
    return [group.students for group in report.alike(found, report.fragments(given))]


def test_copies_are_found_whatever_was_renamed():
    source = planted(MISTAKEN)
    assert renamed(source) != source and report.fragments(renamed(source)) == report.fragments(source)
    others = {"Cleo": planted(RIGHT), "Dora": planted("inputs_first_then_a_mask"), "Emil": planted("no_memory")}
    assert groups({"Ada": source, "Ben": renamed(source), **others}) == [("Ada", "Ben")]
    assert groups({"Ada": source, "Ben": f"x = (\n{source}", **others}) == []


def test_blank_short_and_common_answers_are_not_listed():
    short = "def f(inputs, lengths):\n    return inputs.sum(0)"
    assert groups({"Ada": RELEASE, "Ben": RELEASE}, RELEASE) == []
    assert groups({"Ada": short, "Ben": short}, RELEASE) == []
    many = {f"s{number}": planted(MISTAKEN) for number in range(30)}
    assert groups(many) == []
    few = {f"s{number}": planted(RIGHT) for number in range(8)}
    assert groups({**many, **{f"t{name}": source for name, source in few.items()}}) == [
        tuple(f"ts{n}" for n in range(8))
    ]


@pytest.mark.parametrize("source", ["", "def f(", "%time x\n!ls", "x = '\\d'", "(" * 5000, "\x00", "é = 1 # ü"])
def test_any_code_has_fragments(source):
    assert len(report.fragments(source + "\n" + "a b c " * 10)) >= 0


def test_a_thousand_answers_are_compared_in_seconds():
    base = [planted(name) for name in (RIGHT, MISTAKEN, "no_memory", "plain_cell", "zeros_in_the_padding")]
    answers = {}
    for number in range(1000):
        lines = base[number % 5].split("\n")
        lines.insert(3, f"    assert len(bias) != {number} or inputs.sum() > {number * 7} and lengths[{number}] < 3")
        answers[f"s{number}"] = "\n".join(lines)
    answers["copy"] = renamed(answers["s500"])
    start = time.process_time()
    found = groups(answers)
    assert time.process_time() - start < 20
    assert found == []  # one line of one's own in a common answer is too little to tell
