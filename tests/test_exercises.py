"""Problem sets: what students get, that nothing leaks, that stock nbgrader agrees; and what the proofs find amiss."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SET, copy_set, load, make_tree, rnn2rag, section

from rnn2rag.authoring import exercises, proofs
from rnn2rag.errors import UserError

NOTEBOOK = "recurrent-networks.ipynb"
PRIVATE = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)### END \1", re.S)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tree with the real set's source alone, its exercises made twice; what was written the first and second time."""
    tree = make_tree(tmp_path_factory.mktemp("made"))
    copy_set(tree)
    for path in tree.glob("*/*/*.ipynb"):
        path.unlink()
    written = [exercises.write(tree), exercises.write(tree)]
    return tree, [[path.relative_to(tree).as_posix() for path in paths] for paths in written]


def test_exercises_are_byte_stable(made):
    tree, (first, second) = made
    names = [f"solutions/{SET}/{NOTEBOOK}", f"exercises/{SET}/{NOTEBOOK}"]
    assert sorted(first) == sorted(names) and second == []
    for name in names:
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes()


def private_lines():
    """The lines of solutions and hidden tests that stand nowhere else in the source."""
    text = (ROOT / "solutions" / SET / "recurrent-networks.md").read_text(encoding="utf8")
    hidden = {line.strip() for part in PRIVATE.finditer(text) for line in part[2].splitlines()}
    public = {line.strip() for line in PRIVATE.sub("", text).splitlines()}
    lines = {line for line in hidden - public if len(line) > 8}
    assert len(lines) > 30
    return lines


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
        "One problem",
        "One ### BEGIN SOLUTION ### END SOLUTION problem",
    )
    with pytest.raises(UserError) as caught:
        exercises.write(tree)
    assert str(caught.value).startswith(f"solutions/{SET}: nbgrader's GenerateAssignment failed: RuntimeError: ")
    assert "\n" not in str(caught.value)


# Proofs


@pytest.fixture(scope="module")
def proved():
    """The proofs of the real set."""
    return proofs.prove(ROOT, SET, jobs=2)


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
    parts = (
        "%%\nimport torch\nfrom rnn2rag import checks",
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
