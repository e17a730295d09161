"""An honest class graded by stock nbgrader and by ours: the same gradebook; and stock commands on ours afterwards."""

import csv
import html
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, SET, copy_set, make_tree, start_rnn2rag, surroundings
from grading import honest

COUNT = 48
STOCK_PARTS = 2
KEY = "5eed" * 16
DUE = "2027-01-10 12:00 UTC"
EXTENDED = "2027-01-11 14:00 Europe/Berlin"
VERY_LATE = "2027-01-12 23:59:59 UTC"
TIMES = ("2027-01-09 08:30:00 UTC", "2027-01-10 12:00:10 UTC", "2027-01-12 11:59:59 UTC", VERY_LATE)
ROSTER = honest.roster(ROOT, COUNT)
EARNS = ("class", "recursion", "einsum and Greek names", "a tensor made before")
HANDED_IN = dict(zip([student for student, kind in ROSTER.items() if kind in EARNS], TIMES, strict=True))
DAY = 24 * 60 * 60  # seconds
MINUTES = 20  # for a grading command; far more than it takes


def course_tree(folder, students):
    """A course with the release key, a policy for lateness, and what some students handed in, four at known times."""
    tree = make_tree(folder)
    copy_set(tree, ROOT)
    (tree / "release.key").write_text(KEY + "\n", encoding="utf8")
    extensions = {SET: {student: EXTENDED for student, when in HANDED_IN.items() if when == VERY_LATE}}
    with (tree / "nbgrader_config.py").open("a", encoding="utf8") as config:
        config.write(f"\nc.LatePenalty.due = {{{SET!r}: {DUE!r}}}\nc.LatePenalty.extensions = {extensions!r}\n")
        config.write("c.LatePenalty.grace = 5\nc.LatePenalty.per_day = 0.1\n")
    submitted = honest.submissions(ROOT, COUNT)
    honest.write(tree, {student: submitted[student] for student in students})
    for student in HANDED_IN.keys() & set(students):
        (tree / "submitted" / student / SET / "timestamp.txt").write_text(HANDED_IN[student], encoding="utf8")
    return tree


def start_nbgrader(tree, *arguments):
    environment = surroundings(tree, False)
    environment.pop("PYTEST_CURRENT_TEST", None)  # with it a kernel leaves out what programs write to stderr
    program = str(Path(sys.executable).with_name("nbgrader"))
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([program, *arguments], cwd=tree, env=environment, text=True, **pipe)


def nbgrader(tree, *arguments):
    """Run a stock command and return what it said."""
    process = start_nbgrader(tree, *arguments)
    said, _ = process.communicate(timeout=60 * MINUTES)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The tree that we graded, and the records of stock's gradebook and of ours, {student: record}."""
    folder = tmp_path_factory.mktemp("equality")
    names = sorted(ROSTER)
    parts = [names[start::STOCK_PARTS] for start in range(STOCK_PARTS)]
    ours = course_tree(folder / "ours", names)
    stock = [course_tree(folder / f"stock-{number}", part) for number, part in enumerate(parts)]
    nbgrader(stock[0], "generate_assignment", SET, "--force")
    for tree in stock[1:]:
        shutil.copy(stock[0] / "gradebook.db", tree)
    started = [start_nbgrader(tree, "autograde", SET) for tree in stock]
    started.append(start_rnn2rag(ours, "grade", SET, "--json"))
    said = [process.communicate(timeout=60 * MINUTES) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), [out[-2000:] for out in said]
    assert all(not result["refused"] for result in json.loads(said[-1][0]))
    return ours, {key: value for tree in stock for key, value in records(tree).items()}, records(ours)


def records(tree):
    """What a gradebook holds of each student: the submission, each graded cell, each comment."""
    from nbgrader.api import Gradebook

    found = {}
    with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
        for submission in gradebook.assignment_submissions(SET):
            record = {
                "submission": fields(submission, "score", "max_score", "needs_manual_grade", "total_seconds_late")
            }
            record["submission"]["timestamp"] = str(submission.timestamp)
            for notebook in submission.notebooks:
                kept = ("name", "score", "max_score", "needs_manual_grade", "failed_tests", "late_submission_penalty")
                record["notebook"] = fields(notebook, *kept)
                for grade in notebook.grades:
                    kept = ("auto_score", "manual_score", "extra_credit", "max_score", "needs_manual_grade")
                    record[f"grade of {grade.name}"] = fields(grade, *kept, "failed_tests")
                for comment in notebook.comments:
                    record[f"comment on {comment.name}"] = fields(comment, "auto_comment", "manual_comment")
            found[submission.student.id] = record
    return found


def fields(row, *names):
    return {name: getattr(row, name) for name in names}


@pytest.mark.parametrize("student", sorted(ROSTER), ids=lambda student: ROSTER[student])
def test_ours_records_what_stock_records(graded, student):
    _, stock, ours = graded
    assert ours[student] == stock[student]


def test_the_class_shows_the_whole_range(graded):
    _, stock, ours = graded
    assert len(ROSTER) >= 40 and set(stock) == set(ours) == set(ROSTER)
    scores = {record["submission"]["score"] for record in stock.values()}
    assert {0, 1, 2, 4, 6, 35} <= scores and len(scores) >= 20
    assert {record["submission"]["needs_manual_grade"] for record in stock.values()} == {True, False}
    late = {
        when: (ours[student]["submission"]["total_seconds_late"], ours[student]["notebook"]["late_submission_penalty"])
        for student, when in HANDED_IN.items()
    }
    fifth = {when: pytest.approx(ours[student]["notebook"]["score"] / 5) for student, when in HANDED_IN.items()}
    assert list(late.values()) == [
        (0, None),
        (10, None),
        (DAY * 2 - 1, fifth[TIMES[2]]),
        (DAY * 1.5 - 3601, fifth[VERY_LATE]),
    ]
    comments = {value["auto_comment"] for record in stock.values() for key, value in record.items() if "comment" in key}
    assert comments == {None, "No response."}


def test_stock_exports_and_writes_feedback_from_our_gradebook(graded):
    tree, _, ours = graded
    nbgrader(tree, "export")
    with (tree / "grades.csv").open(encoding="utf8") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file) if row["score"]}
    assert scores == {
        student: record["submission"]["score"] - (record["notebook"]["late_submission_penalty"] or 0)
        for student, record in ours.items()
    }
    students = sorted(ROSTER)[:2]
    for student in students:
        page = tree / "feedback" / student / SET / honest.NAME.replace(".ipynb", ".html")
        page.unlink()
        nbgrader(tree, "generate_feedback", SET, f"--student={student}", "--force")
        assert "leaky-cell-test" in page.read_text(encoding="utf8")


@pytest.mark.parametrize("kind", ["transposed hidden weights", "class"])
def test_stock_grades_one_again_in_our_tree(graded, kind):
    tree, _, ours = graded
    student = next(student for student, known in ROSTER.items() if known == kind)
    nbgrader(tree, "autograde", SET, f"--student={student}", "--force")
    assert records(tree) == ours


@pytest.fixture
def formgrader(graded, tmp_path):
    """The address of a Jupyter server with nbgrader's formgrader, and its token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tree, token = graded[0], "0123456789abcdef"
    settings = {
        "ServerApp": {
            "jpserver_extensions": {"nbgrader.server_extensions.formgrader": True},
            "root_dir": str(tree),
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "allow_root": True,
        },
        "IdentityProvider": {"token": token},
    }
    (tmp_path / "server.json").write_text(json.dumps(settings), encoding="utf8")
    environment = surroundings(tree, False) | {
        f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    command = [sys.executable, "-m", "jupyter_server", f"--config={tmp_path / 'server.json'}"]
    log = (tmp_path / "server.log").open("w", encoding="utf8")
    with log, subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 60
            while server.poll() is None and time.monotonic() < until:
                try:
                    fetch(f"{address}/api", token)
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            yield address, token
        finally:
            server.terminate()


def fetch(url, token):
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode("utf8")


def test_formgrader_shows_the_free_text_with_its_rubric(graded, formgrader):
    from nbgrader.api import Gradebook

    tree = graded[0]
    address, token = formgrader
    student = next(student for student, kind in ROSTER.items() if kind == "class")
    with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
        notebook = gradebook.find_submission(SET, student).notebooks[0]
        name, submission = notebook.name, notebook.id
    waiting = json.loads(fetch(f"{address}/formgrader/api/submitted_notebooks/{SET}/{name}", token))
    assert {row["id"] for row in waiting} >= {submission}
    assert {row["student"] for row in waiting} == set(ROSTER)
    page = fetch(f"{address}/formgrader/submissions/{submission}/", token)
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    assert "The leak sets how fast the state forgets: about 1 / leak steps." in text
    assert "Rubric" in text and text.index("Rubric") < text.index("The leak sets how fast")
    released = json.loads((ROOT / "exercises" / SET / honest.NAME).read_text(encoding="utf8"))
    rubric = next(honest.text_of(cell) for cell in released["cells"] if "**Rubric**" in honest.text_of(cell))
    for line in re.findall(r"^- (.+)$", rubric, re.M):
        assert " ".join(line.split()) in text
