"""Problem sets: what students get, that nothing leaks, that stock nbgrader agrees; and what the proofs find amiss."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COURSE, ROOT, SET, copy_set, graded_cell, load, make_tree, rnn2rag, section, write_section

from rnn2rag import checks, course, execute
from rnn2rag.authoring import book, exercises, proofs
from rnn2rag.errors import UserError
from rnn2rag.grading import split, worker

NOTEBOOK = "recurrent-networks.ipynb"
PRIVATE = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)### END \1", re.S)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tree with the real set's source alone, its exercises made twice; what was written the first and second time."""
    tree = make_tree(tmp_path_factory.mktemp("made"))
    copy_set(tree)
    write_section(tree, "recurrent-cell")
    for path in tree.glob("*/*/*.ipynb"):
        path.unlink()
    written = [exercises.write(tree), exercises.write(tree)]
    return tree, [[path.relative_to(tree).as_posix() for path in paths] for paths in written]


def test_exercises_are_byte_stable(made):
    tree, (first, second) = made
    names = [f"solutions/{SET}/{NOTEBOOK}", f"exercises/{SET}/{NOTEBOOK}"]
    assert sorted(first) == sorted(names) and second == []
    for name in names:
        assert (tree / name).read_bytes() == (COURSE / name).read_bytes()


def private_lines():
    """The lines of solutions and hidden tests that stand nowhere else in the source."""
    text = (COURSE / "solutions" / SET / "recurrent-networks.md").read_text(encoding="utf8")
    hidden = {line.strip() for part in PRIVATE.finditer(text) for line in part[2].splitlines()}
    public = {line.strip() for line in PRIVATE.sub("", text).splitlines()}
    lines = {line for line in hidden - public if len(line) > 8}
    assert len(lines) > 30
    answer = re.search(r'^\+\+\+ {"nbgrader".*?\n(.*?)^\+\+\+', text, re.S | re.M)[1]
    return lines | {line for line in answer.splitlines() if line}


def test_nothing_leaks_into_the_release(made):
    folder = made[0] / "exercises"
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == [
        f"{SET}/{NOTEBOOK}"
    ]
    released = folder / SET / NOTEBOOK
    source = "\n".join("".join(cell["source"]) for cell in load(released)["cells"])
    assert not [line for line in private_lines() if line in source]
    assert not [mark for mark in ("BEGIN ", "END SOLUTION", "END HIDDEN") if mark in source]
    assert source.count("raise NotImplementedError") == 1 and "tried here, and the gradient" in source
    assert "".join(graded_cell(load(released), "leak-and-error")["source"]) == "YOUR ANSWER HERE"


def test_stock_nbgrader_makes_the_same_release(made, tmp_path):
    tree = shutil.copytree(made[0], tmp_path / "course")
    ours = (tree / "exercises" / SET / NOTEBOOK).read_bytes()
    shutil.rmtree(tree / "exercises")
    program = str(Path(sys.executable).with_name("nbgrader"))
    run = subprocess.run([program, "generate_assignment", SET], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [path.name for path in (tree / "exercises" / SET).iterdir()] == [NOTEBOOK]
    assert (tree / "exercises" / SET / NOTEBOOK).read_bytes().rstrip(b"\n") == ours.rstrip(b"\n")


@pytest.fixture
def tree(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "course")


def edit(path, old, new):
    text = path.read_text(encoding="utf8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf8")


def test_what_does_not_match_or_belong_is_noticed_and_mended(tree):
    released = tree / "exercises" / SET
    source = tree / "solutions" / SET / "recurrent-networks.md"
    strange = [released / name for name in ("misconceptions.py", "old.ipynb", "recurrent-networks.md")]
    (released / ".ipynb_checkpoints").mkdir()
    strange[2].write_text("def attention(): ...", encoding="utf8")
    with pytest.raises(UserError, match=f"^exercises/{SET}/recurrent-networks.md: has no source under solutions/"):
        exercises.check(tree)
    edit(source, "Difficulty 2 of 5", "Difficulty 3 of 5")
    with pytest.raises(UserError, match=f"^solutions/{SET}/{NOTEBOOK}: does not match its source; run `make e"):
        exercises.check(tree)
    for path in strange:
        path.touch()
    changed = exercises.write(tree)
    assert changed == [tree / "solutions" / SET / NOTEBOOK, released / NOTEBOOK, *strange]
    assert sorted(path.name for path in released.iterdir()) == [".ipynb_checkpoints", NOTEBOOK]
    exercises.check(tree)


def test_the_release_of_a_set_that_is_gone_is_removed(tree):
    (tree / "solutions" / SET / "recurrent-networks.md").unlink()
    with pytest.raises(UserError, match="has no source under solutions/; remove it"):
        exercises.check(tree)
    status, stdout, _ = rnn2rag(tree, "exercises")
    assert status == 0
    assert stdout.splitlines() == [f"removed  exercises/{SET}/{NOTEBOOK}", f"removed  solutions/{SET}/{NOTEBOOK}"]


@pytest.mark.parametrize("mark", ["BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS"])
def test_half_a_mark_is_one_line_and_writes_nothing(tree, mark):
    edit(tree / "solutions" / SET / "recurrent-networks.md", f"### {mark}", "#")
    before = {path: path.read_bytes() for path in tree.rglob("*.ipynb")}
    with pytest.raises(UserError) as caught:
        exercises.write(tree)
    kind = mark.partition(" ")[2].lower()
    numbers = ("0", "1") if mark.startswith("BEGIN") else ("1", "0")
    said = f"marks the beginning of {numbers[0]} {kind}, and the end of {numbers[1]}"
    assert str(caught.value) == f"solutions/{SET}/recurrent-networks.md: {said}"
    assert {path: path.read_bytes() for path in tree.rglob("*.ipynb")} == before


def test_a_mark_that_nbgrader_does_not_take_out_is_one_line(tree):
    edit(
        tree / "solutions" / SET / "recurrent-networks.md",
        "Two problems",
        "Two ### BEGIN SOLUTION ### END SOLUTION problems",
    )
    with pytest.raises(UserError) as caught:
        exercises.write(tree)
    assert str(caught.value).startswith(f"solutions/{SET}: nbgrader's GenerateAssignment failed: RuntimeError: ")
    assert "\n" not in str(caught.value)


SOURCE = f"solutions/{SET}/recurrent-networks.md"
LAYOUT = {
    "a visible test after a hidden one": (
        "task: false, schema_version: 3}\n---\nproblem = checks",
        "task: false, schema_version: 3}\n---\n### BEGIN HIDDEN TESTS\n### END HIDDEN TESTS\nproblem = checks",
        "the cell 'leak-and-error' stands after the hidden tests 'leaky-cell-test'; hidden tests come last",
    ),
    "a problem without its section": (
        "6 points. Taught in\n[The recurrent cell and backpropagation through time](../../chapters",
        "6 points. Taught in\n[The recurrent cell and backpropagation through time](../chapters",
        "the problem of the cell 'leaky-cell' links no section that teaches it, in the form ../../chapters/NN-name/",
    ),
    "a section that is none": (
        "recurrent-cell.ipynb), under",
        "no-such-cell.ipynb), under",
        "the problem of the cell 'leak-and-error' links chapters/01-recurrent-networks/no-such-cell.ipynb; there is no",
    ),
    "no rubric": (
        "**Rubric**",
        "",
        "the rubric above the cell 'leak-and-error' gives 0 of 2 points; end the question with **Rubric** and under it",
    ),
    "a rubric of other points": (
        "- 1 point: gives",
        "- 0.5 points: gives",
        "the rubric above the cell 'leak-and-error' gives 1.5 of 2 points",
    ),
    "a rubric in another cell": (
        "\n+++ {",
        "\n+++\n\nAnswer here:\n\n+++ {",
        "the rubric above the cell 'leak-and-error' gives 0 of 2 points",
    ),
}


@pytest.mark.parametrize("name", LAYOUT)
def test_a_set_that_is_not_laid_out_as_sets_are_is_one_line(tree, name):
    old, new, said = LAYOUT[name]
    edit(tree / SOURCE, old, new)
    before = {path: path.read_bytes() for path in tree.rglob("*.ipynb")}
    with pytest.raises(UserError) as caught:
        exercises.write(tree)
    assert str(caught.value).startswith(f"{SOURCE}: {said}") and "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tree.rglob("*.ipynb")} == before


def test_what_is_hidden_stands_at_the_end_of_the_real_set():
    cells = execute.read(COURSE / "solutions" / SET / NOTEBOOK).cells
    hidden = [exercises.HIDDEN in cell.source for cell in cells]
    assert any(hidden) and hidden == sorted(hidden)


# A free-text answer under stock nbgrader


def test_an_answer_in_words_waits_for_a_person(made, tmp_path):
    from nbgrader.api import Gradebook

    tree = shutil.copytree(made[0], tmp_path / "course")
    for student, answer in (("ada", "One step back multiplies the error by 0.9."), ("ben", None)):
        nb = load(tree / "exercises" / SET / NOTEBOOK)
        if answer:
            graded_cell(nb, "leak-and-error")["source"] = answer
        (tree / "submitted" / student / SET).mkdir(parents=True)
        (tree / "submitted" / student / SET / NOTEBOOK).write_text(json.dumps(nb), encoding="utf8")
    program = str(Path(sys.executable).with_name("nbgrader"))
    for command in ("generate_assignment", "autograde"):
        run = subprocess.run([program, command, SET, "--force"], cwd=tree, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    with Gradebook(f"sqlite:///{tree}/gradebook.db") as gradebook:
        grades = {s: gradebook.find_grade("leak-and-error", NOTEBOOK[:-6], SET, s) for s in ("ada", "ben")}
        assert (grades["ada"].needs_manual_grade, grades["ada"].auto_score) == (True, None)
        assert (grades["ben"].needs_manual_grade, grades["ben"].auto_score) == (False, 0.0)
        comment = gradebook.find_comment("leak-and-error", NOTEBOOK[:-6], SET, "ben")
        assert comment.comment == "No response."


# Verdicts that are given whatever an answer may be


def weird_values(size):
    """Values that a probe may send: of the right shape with weird content, and of no shape at all."""
    import torch

    count = int(torch.tensor(size).prod())
    for fill in (float("nan"), float("inf"), float("-inf"), 0.0, 1e300, -1e-300):
        yield torch.full(size, fill, dtype=torch.float64)
    for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.complex64):
        yield torch.ones(size).to(dtype)
    yield torch.full(size, 2**63 - 1, dtype=torch.int64)
    yield torch.randn(size, generator=torch.Generator().manual_seed(0)).tolist()
    yield [torch.zeros(size[1:])] * size[0]
    yield torch.zeros(size).tolist()[:-1] + ["x"]
    yield from (torch.zeros(0), torch.zeros(0, 2**20), torch.zeros(()), torch.zeros([1] * 64), torch.zeros(count))
    yield from (None, True, 0, -1, 10**1000, 0.5, float("nan"), "", "nan", "x" * 10**6, [], [[]], {}, [[], [1]], [None])
    yield from ({"a": torch.ones(2)}, {1: 2}, [[[[[[[[1]]]]]]]], [0] * 99_999, ["x"] * 99_999, [torch.ones(2)] * 5)


def test_no_answer_makes_a_verdict_of_the_real_set_fail():
    notebook = execute.read(COURSE / "solutions" / SET / NOTEBOOK)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    imports = split.imports([cell.source for cell in cells if not course.grader_data(cell)])
    tests = [split.halves(cell.source) for cell in cells if worker.is_test(cell)]
    assert len(tests) == 2
    with split.Judge(imports, "key") as judge:
        for size in ((1, 2, 2), (2, 3, 1), (4, 7, 5), (5, 5)):
            for value in weird_values(size):
                for parts in tests:
                    sent = {probe: {"ok": checks.to_plain(value)} for probe in parts.probes}
                    score = judge.score(parts, sent)[checks.SCORE_MIME]
                    assert score["faults"] == [] and 0 <= score["points"] <= 1, (size, value)
                    assert all(rung["points"] or rung["message"] or rung["hidden"] for rung in score["rungs"])


# Private hidden tests

VISIBLE = """problem = checks.Problem("double")

@problem.probe
def three():
    return double(3)

@problem.verdict(three, points=1)
def doubles_three(value):
    checks.equal(value, 6)

problem.score()"""
HIDDEN = """# More numbers are tried when this is graded.
### BEGIN HIDDEN TESTS
problem = checks.Problem("double")

@problem.probe
def xyzzy_number(seed):
    return double(seed % 1000 + 100)

@problem.verdict(xyzzy_number, points=2, hidden="doubles other numbers")
def xyzzy_verdict(value, seed):
    checks.equal(value, seed % 1000 * 2 + 200)

problem.score()
### END HIDDEN TESTS"""
TINY = "01-tiny"
TINY_SECTION = "../../chapters/01-tiny/numbers.ipynb"
TINY_PLANTED = """from rnn2rag.authoring.proofs import right, wrong

@wrong("double", says="got 4")
def adds_one(x):
    return x + 1

@wrong("double", says="got 9")
def squares(x):
    return x * x

@wrong("double", says="got None")
def forgets(x):
    pass

@right("double")
def adds(x):
    return x + x

@right("double")
def shifts(x):
    return x << 1
"""


def tiny_set(folder, hidden):
    """Write a small problem set, with what its hidden test cell holds."""
    folder.mkdir(parents=True)
    parts = (
        "%%\nfrom rnn2rag import checks",
        f"## Problem 1: double\n\nTaught in [Numbers]({TINY_SECTION}).",
        cell("double", "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"),
        cell("double-test", VISIBLE, points=1),
        "## Hidden tests",
        cell("double-hidden", hidden, points=2),
    )
    (folder / "tiny.md").write_text(section(*parts), encoding="utf8")
    (folder / "misconceptions.py").write_text(TINY_PLANTED, encoding="utf8")


@pytest.fixture
def overlaid(tmp_path):
    """A public course whose set has no hidden tests, and a private folder with a set that has them."""
    tree = make_tree(tmp_path / "public")
    write_section(tree, "numbers", chapter=TINY)
    public = re.sub(r"### BEGIN HIDDEN TESTS.*### END HIDDEN TESTS", "", HIDDEN, flags=re.S).strip()
    tiny_set(tree / "solutions" / TINY, public)
    tiny_set(tmp_path / "private" / TINY, HIDDEN)
    exercises.write(tree)
    return tree


def make_private(tree, folder="../private"):
    line = 'c.CourseDirectory.source_directory = "solutions"\n'
    edit(tree / "nbgrader_config.py", line, f"{line}c.Rnn2rag.private = {folder!r}\n")


def public_texts(tree):
    """All that stands in a tree where a class can see it: sources, exercises, feedback pages."""
    folders = ("solutions", "exercises", "feedback", "chapters", "_build")
    paths = [path for folder in folders for path in (tree / folder).rglob("*") if path.is_file()]
    assert len(paths) > 4
    return {path: path.read_bytes() for path in paths}


def test_a_private_set_is_released_and_leaves_the_public_one_alone(overlaid):
    before = public_texts(overlaid)
    make_private(overlaid)
    private = course.private_folder(overlaid)
    assert course.set_folder(overlaid, TINY) == private / TINY and course.set_names(overlaid) == [TINY]
    assert exercises.write(overlaid) == [private / TINY / "tiny.ipynb"]
    assert public_texts(overlaid) == before  # the release is the same, hidden tests or not
    exercises.check(overlaid)
    edit(private / TINY / "tiny.md", "## Problem 1: double", "## Problem 1: twice")
    with pytest.raises(UserError, match="^exercises/01-tiny/tiny.ipynb: does not match|^../private/01-tiny/tiny.ipynb"):
        exercises.check(overlaid)
    edit(private / TINY / "tiny.md", TINY_SECTION, "")
    with pytest.raises(UserError, match="^../private/01-tiny/tiny.md: the problem of the cell 'double' links no"):
        exercises.check(overlaid)


def test_a_set_that_is_private_alone_and_one_that_is_public_alone(overlaid, tmp_path):
    tiny_set(tmp_path / "private" / "02-other", HIDDEN)
    shutil.rmtree(tmp_path / "private" / TINY)
    make_private(overlaid)
    assert course.set_names(overlaid) == [TINY, "02-other"]
    exercises.write(overlaid)
    assert (overlaid / "exercises" / "02-other" / "tiny.ipynb").exists()
    assert not (overlaid / "solutions" / "02-other").exists()
    assert course.set_folder(overlaid, TINY) == overlaid / "solutions" / TINY


@pytest.mark.parametrize("private_alone", [True, False])
def test_stock_nbgrader_releases_the_private_set(overlaid, private_alone):
    from nbgrader.api import Gradebook

    if not private_alone:  # a set that the private folder does not hold: stock nbgrader knows one folder of sources
        tiny_set(overlaid / "solutions" / "02-other", HIDDEN)
    make_private(overlaid)
    exercises.write(overlaid)
    before = (overlaid / "exercises" / TINY / "tiny.ipynb").read_bytes()
    program = str(Path(sys.executable).with_name("nbgrader"))
    command = [program, "generate_assignment", TINY, "--force"]
    run = subprocess.run(command, cwd=overlaid, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (overlaid / "exercises" / TINY / "tiny.ipynb").read_bytes().rstrip(b"\n") == before.rstrip(b"\n")
    with Gradebook(f"sqlite:///{overlaid}/gradebook.db") as gradebook:
        sources = {cell.name: cell.source for cell in gradebook.find_notebook("tiny", TINY).source_cells}
    assert ("xyzzy" in sources["double-hidden"]) == private_alone


def test_a_private_folder_that_is_not_there_is_one_line(overlaid):
    make_private(overlaid, "../nowhere")
    with pytest.raises(UserError) as caught:
        exercises.write(overlaid)
    where = overlaid.parent / "nowhere"
    assert str(caught.value) == f"there is no folder {where}, which c.Rnn2rag.private in nbgrader_config.py names"


def test_proofs_use_the_private_set(overlaid):
    with pytest.raises(UserError, match="the test 'double-hidden' is for no problem"):
        proofs.prove(overlaid, TINY, jobs=1)
    make_private(overlaid)
    exercises.write(overlaid)
    made = proofs.prove(overlaid, TINY, jobs=2)
    assert [proof for proof in made if proof.amiss] == [] and made[0].possible == 3


def test_a_class_graded_with_private_tests_shows_nobody_what_they_are(overlaid):
    make_private(overlaid)
    exercises.write(overlaid)
    answers = {"ada": "def double(x):\n    return x + x", "ben": "def double(x):\n    return min(2 * x, 20)"}
    for student, answer in answers.items():
        nb = load(overlaid / "exercises" / TINY / "tiny.ipynb")
        graded_cell(nb, "double")["source"] = answer
        path = overlaid / "submitted" / student / TINY / "tiny.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(nb), encoding="utf8")
    status, stdout, stderr = rnn2rag(overlaid, "grade", TINY, "--json", "--jobs", "1")
    assert status == 0, stderr
    results = {result["student"]: (result["points"], result["possible"]) for result in json.loads(stdout)}
    assert results == {"ada": (3, 3), "ben": (1, 3)}
    (overlaid / "_config.yml").write_bytes((ROOT / "_config.yml").read_bytes())
    shutil.copytree(ROOT / "assets", overlaid / "assets", dirs_exist_ok=True)
    shutil.rmtree(overlaid / "chapters" / SET)
    (overlaid / "chapters" / TINY / "numbers.md").unlink()
    page = "# Problems\n\n{download}`the problems </exercises/01-tiny/tiny.ipynb>`\n"
    (overlaid / "chapters" / TINY / "problems.md").write_text(page, encoding="utf8")
    (overlaid / "_toc.yml").write_text(f"format: jb-book\nroot: chapters/{TINY}/problems\n", encoding="utf8")
    book.build(overlaid)
    texts = public_texts(overlaid)
    assert any(path.name == "tiny.ipynb" and "_build" in path.parts for path in texts)
    assert any("feedback" in path.parts for path in texts)
    assert [path for path, data in texts.items() if b"xyzzy" in data] == []


# Proofs


@pytest.fixture(scope="module")
def proved():
    """The proofs of the real set."""
    return proofs.prove(COURSE, SET, jobs=2)


def test_the_real_set_is_proved(proved):
    assert [proof for proof in proved if proof.amiss] == []
    kinds = [proof.kind for proof in proved]
    assert kinds.count("wrong") >= 3 and kinds.count("right") >= 2 and kinds.count("forbidden") >= 2
    assert proved[-1].name == "Validate"


def test_what_each_kind_of_answer_earns(proved):
    for proof in proved[:-1]:
        assert proof.possible == 6 and proof.least <= proof.most and proof.seconds > 0
        if proof.kind in ("reference", "right"):
            assert (proof.least, proof.messages) == (6, [])
        if proof.kind == "blank":
            assert (proof.most, proof.messages) == (0, ["Nothing is written here yet."])
        if proof.kind == "wrong":
            assert 0 <= proof.most < 6 and len(proof.messages) >= 1


def test_proofs_as_json(proved):
    data = json.loads(proofs.as_json(proved))
    assert len(data) == len(proved) and data[0]["problem"] == "leaky-cell" and data[0]["amiss"] == []


def cell(grade_id, code, points=None):
    """A cell of a problem set: a solution, or with points a test."""
    is_test = str(points is not None).lower()
    data = f"grade_id: {grade_id}, grade: {is_test}, locked: {is_test}, solution: {str(points is None).lower()}"
    data += f", task: false, schema_version: 3{f', points: {points}' if points else ''}"
    return f"%%\n---\nnbgrader: {{{data}}}\n---\n{code}"


SOLUTION = """def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION"""
TEST = """problem = checks.Problem("double", forbids=["torch.cumsum"])

@problem.probe
def three():
    return double(torch.tensor([3.0, 5.0])).tolist()

@problem.verdict(three, points=2)
def doubles_three(values):
    checks.close(values, [6.0, 10.0], instead={"You squared it.": [9.0, 25.0]})

problem.score()"""
TRIPLE = """def triple(x):
    ### BEGIN SOLUTION
    return 3 * x
    ### END SOLUTION"""
TRIPLE_TEST = """problem = checks.Problem("triple")

@problem.probe
def one():
    return triple(1)

@problem.verdict(one, points=1)
def triples_one(value):
    checks.equal(value, 3)

@problem.verdict(one, points=1)
def is_broken(value):
    raise LookupError("oops")

problem.score()"""
PLANTED = '''"""Planted answers, some of which are not what they say."""

from rnn2rag.authoring.proofs import forbidden, right, wrong


@wrong("double", says="You squared it")
def squared(x):
    return x * x


@wrong("double", says="values differ")
def earns_everything(x):
    return x + x.clone()


@wrong("double", says="wrong values")
def adds_three(x):
    return x + 3


@wrong("double", says="right shape, wrong")
def adds_four(x):
    return x + 4


@right("double")
def halves(x):
    return x / 2


@right("double")
def left_shift(x):
    return x.mul(2)


@forbidden("double", points=0)
def multiplies(x):
    return x * 2.0
'''


@pytest.fixture(scope="module")
def tampered(tmp_path_factory):
    """The proofs, by name, of a small set in which much is amiss."""
    tree = make_tree(tmp_path_factory.mktemp("tampered"))
    folder = tree / "solutions" / "01-tiny"
    folder.mkdir(parents=True)
    write_section(tree, "numbers", chapter="01-tiny")
    parts = (
        "%%\nimport torch\nfrom rnn2rag import checks",
        "## Problems\n\nTaught in [Numbers](../../chapters/01-tiny/numbers.ipynb).",
        cell("double", SOLUTION),
        cell("double-test", TEST, points=2),
        cell("triple", TRIPLE),
        cell("triple-test", TRIPLE_TEST, points=3),
    )
    (folder / "tiny.md").write_text(section(*parts), encoding="utf8")
    (folder / "misconceptions.py").write_text(PLANTED, encoding="utf8")
    exercises.write(tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proofs, "LEAST_WRONG", 0)
        patch.setattr(proofs, "LEAST_RIGHT", 0)
        made = proofs.prove(tree, "01-tiny", jobs=2)
    return {f"{proof.problem}: {proof.name}": proof.amiss for proof in made}


AMISS = {
    "double: reference": [],
    "double: blank release": [],
    "double: squared": [],
    "double: left_shift": [],
    "double: earns_everything": ["earns full marks on a seed", "draws no message that says 'values differ'"],
    "double: adds_three": ["draws the message of adds_four: 'right shape, wrong'"],
    "double: adds_four": ["draws the message of adds_three: 'wrong values'"],
    "double: halves": [
        "earns 0 to 0 points, deserves 2",
        "draws the message of adds_three: 'wrong values'",
        "draws the message of adds_four: 'right shape, wrong'",
    ],
    "double: multiplies": [
        "earns 2 to 2 points, deserves 0",
        "is not caught using what is forbidden; the messages are []",
    ],
}


@pytest.mark.parametrize("name", AMISS)
def test_what_is_amiss_is_found(tampered, name):
    assert tampered[name] == AMISS[name]


def test_a_test_that_is_itself_amiss_is_found(tampered):
    found = tampered["triple: reference"]
    assert "triple-test: is broken (LookupError('oops'))" in found
    assert "triple-test: its rungs do not sum to its 3 points" in found
    assert "earns 1 to 1 points, deserves 3" in found
    assert "nbgrader's Validate says: " in tampered["(all): Validate"][0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('@right("leaky-cell")\n', "", "leaky-cell has 0 right answers; plant 2"),
        ('@wrong("leaky-cell"', '@wrong("leeky-cell"', "is for 'leeky-cell'; there are leaky-cell"),
        ('@forbidden("leaky-cell", points=0)\n', "", "leaky-cell forbids something; plant an answer that uses it"),
    ],
)
def test_a_set_without_its_planted_answers_is_one_line(tree, old, new, said):
    path = tree / "solutions" / SET / "misconceptions.py"
    path.write_text(path.read_text(encoding="utf8").replace(old, new), encoding="utf8")
    with pytest.raises(UserError) as caught:
        proofs.prove(tree, SET, jobs=1)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="misconceptions.py: is missing; it plants"):
        proofs.prove(tree, SET, jobs=1)


def test_a_release_that_lacks_the_problem_is_one_line(tree):
    path = tree / "exercises" / SET / NOTEBOOK
    nb = load(path)
    nb["cells"] = [cell for cell in nb["cells"] if not cell["metadata"].get("nbgrader")]
    path.write_text(json.dumps(nb), encoding="utf8")
    with pytest.raises(UserError, match=f"^exercises/{SET}: does not have leaky-cell yet; run `make exercises`$"):
        proofs.prove(tree, SET, jobs=1)
