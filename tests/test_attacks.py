"""A class of attackers and honest students, graded in one run: each earns what they deserve, nothing else moves."""

import hashlib
import html
import re
import resource
import sqlite3
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from grading import attacks

from rnn2rag.errors import UserError
from rnn2rag.grading import intake, worker

BY_NAME = {attack.name: attack for attack in attacks.ATTACKS}


def hashes(folder):
    """What every file of a folder holds, as hashes; links are not followed."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The class after it was graded: tree, students and attacks, results, and what happened outside of the tree."""
    folder = tmp_path_factory.mktemp("attacks")
    tree = attacks.make_course(folder)
    klass = attacks.students(attacks.runnable())
    attacks.submit(tree, klass)
    before = {part: hashes(tree / part) for part in ("solutions", "exercises", "submitted")}
    before_elsewhere = attacks.leftovers()
    with pytest.MonkeyPatch.context() as patch, attacks.surroundings(folder) as calls:
        patch.setattr(worker, "CELL_TIMEOUT", attacks.CELL_TIMEOUT)
        results = attacks.grade(tree, attacks.mode())
    time.sleep(1)  # what was killed takes a moment to go
    return SimpleNamespace(
        folder=folder,
        tree=tree,
        klass=klass,
        results={result.student: result for result in results},
        count=len(results),
        of={attack.name: student for student, attack in klass.items() if attack},
        honest=[student for student, attack in klass.items() if attack is None],
        before=before,
        after={part: hashes(tree / part) for part in before},
        processes=attacks.processes(),
        files=[left for left in attacks.leftovers() if left not in before_elsewhere],
        calls=calls,
    )


def test_the_notebooks_are_those_of_the_table():
    made = {f"{name}.ipynb": attack for name, attack in BY_NAME.items() if attack.place is None}
    assert len(BY_NAME) == len(attacks.ATTACKS) and len(made) >= 50
    assert {path.name for path in attacks.FOLDER.iterdir()} == set(made)
    old = [
        name
        for name, attack in made.items()
        if (attacks.FOLDER / name).read_text(encoding="utf8") != attacks.text(attacks.notebook(attack))
    ]
    assert not old, "run `python tests/grading/attacks.py`"


@pytest.mark.parametrize("name", BY_NAME)
def test_an_attack_earns_what_its_answer_deserves(run, name):
    attack = BY_NAME[name]
    if name not in run.of:
        pytest.skip("needs a sandbox to fail, and none works here")
    result = run.results[run.of[name]]
    assert not [text for text in (result.refused, *result.notes) if len(text.splitlines()) > 1], result
    if attack.refused:
        assert attack.refused in result.refused and result.points == 0, result
    elif attack.spoils:
        assert result.points <= attack.deserves, result
    else:
        assert (result.refused, result.points) == ("", attack.deserves), result


def test_everybody_has_one_result(run):
    assert run.count == len(run.klass) and list(run.results) == list(run.klass)
    assert all(result.sandbox == attacks.mode() for result in run.results.values() if not result.refused)


def test_the_honest_students_between_them_earn_everything(run):
    assert len(run.honest) > len(run.klass) / 6
    wronged = [run.results[student] for student in run.honest if run.results[student].points != 6]
    assert not wronged and not [run.results[student] for student in run.honest if run.results[student].notes]


def test_nothing_else_was_changed(run):
    assert run.before == run.after
    for place in (run.folder, run.folder / "home"):
        assert (place / "canary.txt").read_text(encoding="utf8") == "The user's own."
    assert not [path for path in run.folder.rglob(f"*{attacks.TRACE}*") if "autograded" not in path.parts]
    assert {path.name for path in run.folder.iterdir()} == {"course", "home", "canary.txt"}


def test_the_gradebook_says_what_the_results_say(run):
    with sqlite3.connect(run.tree / "gradebook.db") as gradebook:
        assert gradebook.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert gradebook.execute("select count(*) from grade where manual_score is not null").fetchall() == [(0,)]
        scores = dict(
            gradebook.execute(
                "select submitted_assignment.student_id, sum(grade.auto_score) from grade"
                " join submitted_notebook on grade.notebook_id = submitted_notebook.id"
                " join submitted_assignment on submitted_notebook.assignment_id = submitted_assignment.id"
                " group by submitted_assignment.student_id"
            ).fetchall()
        )
    graded = {student: result.points for student, result in run.results.items() if not result.refused}
    assert {student: score or 0 for student, score in scores.items()} == graded


def test_no_process_and_no_file_of_an_attack_is_left(run):
    assert (run.processes, run.files) == ([], [])


def test_nobody_called_the_services_of_this_machine(run):
    assert run.calls == []


class Alive(HTMLParser):
    """Finds what a page would run of a student's code."""

    def __init__(self, page):
        super().__init__()
        self.tag, self.found = "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tag = tag
        self.found += [name for name, value in attributes if "steal" in (value or "")]

    def handle_data(self, data):
        self.found += [data] if self.tag == "script" and "steal" in data else []


def hidden_lines(tree):
    """The lines of the hidden tests that stand nowhere else in the set."""
    source = next((tree / "solutions" / attacks.SET).glob("*.md")).read_text(encoding="utf8")
    hidden = re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END", source, re.S)[1]
    lines = {line.strip() for line in hidden.splitlines() if len(line.strip()) > 12}
    return [line for line in lines if source.count(line) == 1 and not line.startswith("@")]


def test_no_page_shows_what_is_hidden(run):
    hidden = [*hidden_lines(run.tree), attacks.MARK, (run.tree / "release.key").read_text(encoding="utf8").strip()]
    assert len(hidden) > 15
    graded = {student for student, result in run.results.items() if not result.refused}
    pages = {path.parts[-3]: path for path in (run.tree / "feedback").rglob("*.html")}
    assert graded <= set(pages) <= set(run.klass)
    shown = {}
    for student, path in pages.items():
        page = path.read_text(encoding="utf8")
        name = run.klass[student].name if run.klass[student] else "honest"
        text = html.unescape(re.sub(r"<[^>]+>", "", page))
        shown[name] = [line for line in hidden if line in text or line in page]
        shown[name] += [other for other in run.klass if other != student and re.search(rf"\b{other}\b", text)]
        shown[name] += Alive(page).found
    assert not {name: found for name, found in shown.items() if found}


def test_no_report_runs_what_a_student_wrote(run):
    reports = list((run.tree / "reports").glob("*.html"))
    assert reports and not [found for path in reports for found in Alive(path.read_text(encoding="utf8")).found]


@pytest.mark.parametrize("archive", attacks.ARCHIVES, ids=lambda archive: archive.name)
def test_an_archive_is_taken_in_or_refused_and_nothing_else(tmp_path, archive):
    tree = attacks.make_course(tmp_path)
    path = tmp_path / "all.zip"
    archive.make(path, attacks.notebook(BY_NAME["wrong-answer"]))
    outside = hashes(tmp_path)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        found = intake.collect(tree, attacks.SET, path)
        said = next((submission.refused for submission in found if submission.refused), "")
    except UserError as error:
        found, said = [], str(error)
    assert time.monotonic() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 200_000  # kB
    assert len(said.splitlines()) <= 1
    assert archive.refused in said
    taken = {submission.student for submission in found if not submission.refused}
    assert taken == set(archive.taken) if archive.refused else taken >= set(archive.taken)
    assert all(re.fullmatch(r"[\w.@-]+", student) and not student.startswith((".", "-")) for student in taken)
    after = {name: data for name, data in hashes(tmp_path).items() if not name.startswith("course/submitted/")}
    assert after == outside and not attacks.leftovers()
