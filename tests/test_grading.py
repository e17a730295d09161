"""A class from release to grades: submissions of every kind, what feedback hides, and stock nbgrader beside it."""

import copy
import csv
import html
import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COURSE, SET, copy_set, graded_cell, load, make_tree, rnn2rag, start_rnn2rag
from nbformat.v4 import new_code_cell, new_output

from rnn2rag import checks, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import coordinator, worker

NAME = "recurrent-networks.ipynb"
PLANTED = (COURSE / "solutions" / SET / "misconceptions.py").read_text(encoding="utf8")
RIGHT, MISTAKEN, SPYING = "one_sequence_after_the_other", "swapped_shares", "inputs_first_then_a_mask"


def filled(answer=None, before="", after=""):
    """The released notebook with a planted answer filled in, and code around it; blank without."""
    nb = load(COURSE / "exercises" / SET / NAME)
    if answer:
        source = re.search(rf"^def {answer}\(.*?(?=^@|\Z)", PLANTED, re.S | re.M)[0].strip()
        head, _, body = source.replace(answer, "leaky_states").partition("\n")
        graded_cell(nb, "leaky-cell")["source"] = "\n".join([head, *before.splitlines(), body, after])
    return nb


def without(nb, grade_id):
    nb["cells"].remove(graded_cell(nb, grade_id))
    return nb


def with_copies(nb):
    """A test cell copied to the end, and once more under a name that the set does not know."""
    for number, grade_id in enumerate(("leaky-cell-test", "test-of-last-year")):
        cell = copy.deepcopy(graded_cell(nb, "leaky-cell-test"))
        cell["id"] = f"copy-{number}"
        cell["metadata"]["nbgrader"]["grade_id"] = grade_id
        nb["cells"].append(cell)
    return nb


def with_garbled_metadata(nb):
    nb["cells"][1]["metadata"]["nbgrader"] = "mine"
    return nb


def of_an_older_format(nb):
    """As the classic Notebook and Colab save it: without ids."""
    for cell in nb["cells"]:
        del cell["id"]
    return nb | {"nbformat_minor": 2}


SPY = "    print('SPIED', inputs.flatten()[:3].tolist())\n    import warnings\n    warnings.warn(f'SPIED {lengths}')"
CLASS = {
    "Ada": filled(RIGHT),
    "Ben": filled(MISTAKEN),
    "Cleo": filled(),
    "Dora": without(filled(SPYING, before=SPY), "leaky-cell-hidden"),
    "Emil": with_copies(filled(RIGHT, after="### BEGIN HIDDEN TESTS")),
    "Fay": with_garbled_metadata(filled(RIGHT)),
    "Gil": of_an_older_format(filled(RIGHT)),
    "Gus": filled(RIGHT, after="import os\nos._exit(1)"),
    "Hugo": "this is not JSON",
    "Ivy": "",
}
POINTS = {"Ada": 6, "Ben": 2, "Cleo": 0, "Dora": 6, "Emil": 6, "Fay": 6, "Gil": 6, "Gus": 0}


def submit(tree, student, nb, name=NAME):
    path = tree / "submitted" / student / SET / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nb if isinstance(nb, str) else json.dumps(nb), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def klass(tmp_path_factory):
    """A class, graded by the command; the tree and the results by student."""
    tree = make_tree(tmp_path_factory.mktemp("class"))
    copy_set(tree)
    for student, nb in CLASS.items():
        submit(tree, student, nb)
    submit(tree, "Jo", filled(RIGHT), name="final version.ipynb")
    status, stdout, stderr = rnn2rag(tree, "grade", SET, "--json")
    assert status == 1 and "Traceback" not in stderr
    return tree, {result["student"]: result for result in json.loads(stdout)}


def test_every_submission_has_one_result(klass):
    _, results = klass
    assert list(results) == sorted([*CLASS, "Jo"])
    assert {name: result["points"] for name, result in results.items() if not result["refused"]} == POINTS
    assert all(results[name]["possible"] == 8 for name in POINTS)


def test_a_kernel_that_dies_earns_nothing_from_there_and_says_so(klass):
    assert "stopped: the kernel died" in klass[1]["Gus"]["notes"]


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("Hugo", "is not a notebook: it is not JSON"),
        ("Ivy", f"{NAME} is empty or larger than 20 MB"),
        ("Jo", f"has no {NAME}, but final version.ipynb"),
    ],
)
def test_a_bad_submission_is_refused_alone_in_one_line(klass, student, said):
    refused = klass[1][student]["refused"]
    assert refused.startswith(said) and "\n" not in refused and klass[1][student]["points"] == 0


def test_what_is_odd_is_noted(klass):
    assert klass[1]["Dora"]["notes"] == ["the cell 'leaky-cell-hidden' is missing"]
    assert klass[1]["Emil"]["notes"] == ["the cell 'leaky-cell-test' occurs 2 times"]
    assert klass[1]["Ada"]["notes"] == [] and klass[1]["Ada"]["messages"] == []


def test_messages_name_the_misconception(klass):
    assert any("shares are swapped" in message for message in klass[1]["Ben"]["messages"])
    assert klass[1]["Cleo"]["messages"] == ["Nothing is written here yet."] * 3


def grades(tree):
    with (tree / "grades.csv").open(encoding="utf8") as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


def test_grades_are_exported(klass):
    tree, _ = klass
    assert {student: grades(tree)[student] for student in POINTS} == POINTS
    assert not {"Hugo", "Ivy", "Jo"} & set(grades(tree))


def page(tree, student):
    text = (tree / "feedback" / student / SET / NAME).with_suffix(".html").read_text(encoding="utf8")
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def hidden_lines():
    """The lines of the hidden test that stand nowhere else."""
    text = (COURSE / "solutions" / SET / "recurrent-networks.md").read_text(encoding="utf8")
    hidden = re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END", text, re.S)[1]
    lines = {line.strip() for line in hidden.splitlines() if len(line.strip()) > 12}
    return [line for line in lines if text.count(line) == 1 and not line.startswith("@")]


@pytest.mark.parametrize("student", POINTS)
def test_feedback_hides_what_is_hidden(klass, student):
    tree, results = klass
    text = page(tree, student)
    assert results[student]["feedback"] == f"feedback/{student}/{SET}/recurrent-networks.html"
    assert "gives the right states for other shapes, lengths and weights" in text
    assert len(hidden_lines()) > 15 and not [line for line in hidden_lines() if line in text]
    assert "BEGIN HIDDEN TESTS\nproblem" not in text and "make_batch" not in text
    assert not [other for other in {*CLASS, "Jo"} - {student} if re.search(rf"\b{other}\b", text)]


def test_feedback_shows_messages_and_no_hidden_input(klass):
    tree, _ = klass
    assert "The shares are swapped: the old state keeps 1 - leak" in page(tree, "Ben")
    spied = re.findall(r"SPIED.*", page(tree, "Dora"))
    assert "SPIED [1.0, 0.0]" in spied and "SPIED [1.0, 1.0, 1.0]" in spied and "SPIED tensor([2])" in spied
    numbers = [abs(float(number)) for line in spied for number in re.findall(r"-?\d+\.\d+", line)]
    assert set(numbers) == {0.0, 1.0} and not re.search(r"SPIED tensor\(\[\d, \d, \d", page(tree, "Dora"))


def test_the_key_of_the_release_is_private_and_decides_the_hidden_inputs(klass):
    tree, _ = klass
    key = tree / "release.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_text(encoding="utf8").strip()) == 64
    outputs = [
        output for cell in load(tree / "autograded" / "Ada" / SET / NAME)["cells"] for output in cell.get("outputs", ())
    ]
    seeds = {
        output["data"][checks.SCORE_MIME]["seed"] for output in outputs if checks.SCORE_MIME in output.get("data", {})
    }
    assert len(seeds) == 1 and seeds != {checks.seed_of("leaky-cell")}
    assert key.read_text(encoding="utf8").strip() not in page(tree, "Ada")


def test_our_score_of_a_cell_is_nbgraders(klass):
    from nbgrader.utils import determine_grade

    tree, _ = klass
    for student, points in POINTS.items():
        nb = execute.read(tree / "autograded" / student / SET / NAME)
        scores = {score.grade_id: score for score in worker.cell_scores(nb)}
        assert set(scores) == {"leaky-cell-test", "leaky-cell-hidden"}
        assert sum(score.points for score in scores.values()) == points
        for cell in nb.cells:
            if cell.metadata.get("nbgrader", {}).get("grade_id") in scores:
                score = scores[cell.metadata.nbgrader.grade_id]
                assert determine_grade(cell) == (score.points, score.possible)


def nbgrader(tree, *arguments):
    program = str(Path(sys.executable).with_name("nbgrader"))
    run = subprocess.run([program, *arguments], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_stock_nbgrader_works_on_the_same_class(klass):
    tree, _ = klass
    before = grades(tree)
    (tree / "grades.csv").unlink()
    nbgrader(tree, "autograde", SET, "--student=Ben", "--force")
    nbgrader(tree, "generate_feedback", SET, "--student=Ben", "--force")
    nbgrader(tree, "export")
    assert grades(tree) == before
    assert "The shares are swapped" in page(tree, "Ben") and "make_batch" not in page(tree, "Ben")


def test_a_student_checks_before_handing_in(tmp_path):
    tree = make_tree(tmp_path)
    copy_set(tree)
    started = {}
    for student in ("Ada", "Ben", "Cleo"):
        path = tmp_path / f"{student}.ipynb"
        path.write_text(json.dumps(CLASS[student]), encoding="utf8")
        started[student] = start_rnn2rag(tmp_path, "check", path.name)
    said = {student: (*process.communicate(), process.returncode) for student, process in started.items()}
    assert said["Ada"] == (
        "leaky-cell-test: 3 of 3 points\n"
        "  ✓ 1/1  has one state for each step\n"
        "  ✓ 1/1  agrees with the hand calculation\n"
        "  ✓ 1/1  keeps the state after a sequence ends\n"
        "3 of 3 points in the tests that run here\n"
        "3 more points in tests that run when the set is graded\n",
        "",
        0,
    )
    stdout, stderr, status = said["Ben"]
    assert (status, stderr) == (1, "") and "The shares are swapped" in stdout
    stdout, stderr, status = said["Cleo"]
    assert (status, stderr) == (1, "") and stdout.count("Nothing is written here yet.") == 3
    assert "0 of 3 points in the tests that run here" in stdout


SCRIPTS = {
    "text/html": "<b>bold</b><img src=x onerror=alert(1)><script>alert(2)</script>",
    "text/markdown": "[a](javascript:alert(3)) and <iframe src=x></iframe>",
    "image/svg+xml": "<svg onload=alert(4)><script>alert(5)</script></svg>",
    "application/javascript": "alert(6)",
    "text/plain": "1 < 2",
}
ACTIVE = re.compile(r"<(script|iframe|svg|img[^>]*\bonerror)|application/javascript", re.I)


@pytest.mark.parametrize("command", ["ours", "stock"])
def test_what_a_student_wrote_cannot_run_in_formgrader(tmp_path, command):
    tree = make_tree(tmp_path)
    copy_set(tree)
    bare = {kind: data for kind, data in SCRIPTS.items() if kind != "text/plain"}
    bold = {"text/html": "<b>bold</b> &lt;", "text/plain": "bold <"}
    shows = [f"display({bundle!r}, raw=True)" for bundle in (SCRIPTS, bare, bold)]
    nb = filled(RIGHT, after="\n".join(["from IPython.display import display", *shows]))
    prose = "If a < b, then b > a & *c*. <img src=x onerror=alert(7)>"
    graded_cell(nb, "leak-and-error")["source"] = prose
    honest = "If a < b, then b > a & $h_{t-1} < 1$."
    nb["cells"].append({"cell_type": "markdown", "id": "own", "metadata": {}, "source": honest})
    submit(tree, "Ida", nb)
    if command == "ours":
        assert rnn2rag(tree, "grade", SET)[0] == 0
    else:
        nbgrader(tree, "generate_assignment", SET, "--force")
        nbgrader(tree, "autograde", SET)
    kept = execute.read(tree / "autograded" / "Ida" / SET / NAME)
    shown = [
        output.data
        for cell in kept.cells
        for output in cell.get("outputs", ())
        if output.output_type == "display_data" and checks.SCORE_MIME not in output.data
    ]
    assert not ACTIVE.search(json.dumps(shown))
    words, escaped, harmless = shown
    assert words == {"text/plain": "1 < 2"} and harmless == bold
    assert "<b>bold</b>" in escaped["text/html"] and "alert(1)" in escaped["text/html"]
    sources = {cell.id: cell.source for cell in kept.cells}
    assert sources["own"] == honest and not ACTIVE.search(graded_cell(kept, "leak-and-error").source)
    with (tree / "grades.csv").open(encoding="utf8") if command == "ours" else open("/dev/null") as file:
        assert [float(row["raw_score"]) for row in csv.DictReader(file)] == ([6.0] if command == "ours" else [])


@pytest.mark.parametrize(
    ("changed", "left_out"),
    [
        ({}, True),
        ({"tags": []}, False),
        ({"locked": False}, False),
        ({"grade": True}, False),
        ({"solution": True}, False),
    ],
)
def test_only_a_locked_cell_that_nothing_is_graded_by_is_left_out_of_a_run(changed, left_out):
    data = {"grade_id": "figure", "locked": True, "grade": False, "solution": False, **changed}
    tags = data.pop("tags", ["skip-execution"])
    cell = new_code_cell("", metadata={"nbgrader": data, "tags": tags})
    assert coordinator._is_for_the_eye(cell) is left_out


# Scores of cells


def test_cell(*outputs, points=2):
    data = {"grade": True, "solution": False, "grade_id": "t", "points": points}
    return new_code_cell("", metadata={"nbgrader": data}, outputs=list(outputs))


test_cell.__test__ = False


def result(value):
    return new_output("execute_result", data={"text/plain": value}, execution_count=1)


def stream(name="stdout"):
    return new_output("stream", name=name, text="words\n")


ERROR = new_output("error", ename="ValueError", evalue="no", traceback=[])
AS_NBGRADER = {
    "nothing": [],
    "words": [stream()],
    "all": [result("2.0")],
    "part": [stream(), result("1.5")],
    "none": [result("0")],
    "an error": [stream(), ERROR],
    "stderr": [stream("stderr"), result("2.0")],
    "stderr after the result": [result("1.0"), stream("stderr")],
    "two results": [result("1.0"), result("2.0")],
    "an error after the result": [result("1.0"), ERROR],
}


@pytest.mark.parametrize("outputs", AS_NBGRADER.values(), ids=AS_NBGRADER)
def test_a_score_is_nbgraders(outputs):
    from nbgrader.utils import determine_grade

    cell = test_cell(*copy.deepcopy(outputs))
    score = worker.score(cell)
    assert (score.points, score.possible) == determine_grade(cell)


@pytest.mark.parametrize("value", ["nan", "-1", "2.5", "inf", "-inf", "'2'", "None", "", "[2.0]", "array(2.)"])
def test_a_result_that_is_no_score_earns_nothing(value):
    score = worker.score(test_cell(result(value)))
    assert (score.points, score.note) == (0, "the test cell's result is no number from 0 to 2")


REPORT = checks.Score("p", 1, [checks.Rung("a", 2.0, 2.0)], ["f"])._repr_mimebundle_()[checks.SCORE_MIME]


def test_a_report_is_read():
    cell = test_cell(new_output("display_data", data={checks.SCORE_MIME: REPORT}), result("2.0"))
    score = worker.score(cell)
    assert (score.points, score.rungs, score.faults) == (2, REPORT["rungs"], ["f"])


RUNG = REPORT["rungs"][0]
FORGED = ["x", None, {}, {"rungs": 3, "faults": []}, {"rungs": [{}], "faults": []}, {"rungs": ["x"], "faults": []}]
FORGED += [{"rungs": [{**RUNG, **lie}], "faults": []} for lie in ({"message": 3}, {"points": "2"}, {"mine": 1})]


@pytest.mark.parametrize("report", FORGED, ids=str)
def test_a_forged_report_is_not(report):
    score = worker.score(test_cell(new_output("display_data", data={checks.SCORE_MIME: report}), result("1.0")))
    assert (score.points, score.rungs, score.faults) == (1, [], [])
    assert worker.report([score]).endswith("points in tests that run when the set is graded")


def test_what_can_be_checked():
    nb = execute.read(COURSE / "exercises" / SET / NAME)
    garbled = ["mine", None, {"grade": True}, {"grade": True, "points": 1}]
    garbled.append({"grade": True, "grade_id": "x", "points": "3"})
    for data in garbled:
        nb.cells.append(new_code_cell("1", metadata={"nbgrader": data}))
    assert [score.grade_id for score in worker.cell_scores(nb)] == ["leaky-cell-test", "leaky-cell-hidden"]


def test_what_cannot_be_checked_is_one_line(tmp_path):
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps({**filled(), "cells": []}), encoding="utf8")
    with pytest.raises(UserError, match="mine.ipynb: has no test cell; check a notebook of exercises/"):
        worker.check(path)
