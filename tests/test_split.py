"""Test cells in two halves, and answers that try to be talked into points: each earns what it deserves."""

import json
from pathlib import Path

import pytest

from rnn2rag import checks, course, execute
from rnn2rag.authoring import editions
from rnn2rag.errors import UserError
from rnn2rag.grading import coordinator, gradebook, intake, split, worker

SET = "01-recurrent-networks"
NOTEBOOK = "recurrent-networks.ipynb"
ANSWER = "def leaky_states(*arguments, **named):\n    return torch.zeros(1, 2, 2)"  # earns 1: its shape is right

# What stands beside a wrong answer, and what the whole then deserves of 6 points.
ATTACKS = {
    "nothing": ("", 1),
    "torch agrees with everything": (
        "torch.allclose = lambda *a, **k: True\ntorch.isclose = torch.eq = torch.allclose",
        1,
    ),
    "the checks are replaced": ("checks.close = checks.shape = checks.true = checks.equal = lambda *a, **k: None", 1),
    "the score is replaced": ("checks.Problem.score = checks.Problem.send = lambda self: 6.0", 0),
    "verdicts are dropped": ("checks.Problem.verdict = lambda self, *a, **k: lambda f: f", 1),
    "asserts are removed": (
        """
import ast
class Remove(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
    def visit_Raise(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Remove())
""",
        1,
    ),
    "a report is forged": (
        """
from IPython.display import display
def forge(*a):
    rung = {"name": "all", "possible": 3, "points": 3, "message": "", "hidden": False}
    score = {"problem": "leaky-cell", "seed": 0, "rungs": [rung], "faults": [], "points": 3, "possible": 3}
    display({checks.SCORE_MIME: score}, raw=True)
get_ipython().events.register("pre_run_cell", forge)
""",
        1,
    ),
    "values are sent twice": (
        """
from IPython.display import display
right = {"two_steps": {"ok": [[[0.1904, 0.1155], [0.1716, 0.0866]]]}}
get_ipython().events.register("post_run_cell", lambda *a: display({checks.VALUES_MIME: right}, raw=True))
""",
        0,
    ),
    "values lie about their shape": (
        """
import base64
lie = {"ok": {"tensor": "AAAA", "dtype": "float32", "shape": [1, 2, 2]}}
checks.Problem._run = lambda self, function: lie
""",
        0,
    ),
    "values are no values": ("checks.Problem.collect = lambda self: ['two_steps', None, 6.0]", 0),
    "the kernel is left": ("import os, IPython\nget_ipython().events.register('pre_execute', lambda: os._exit(0))", 0),
    "the restored notebook is read": (
        """
import pathlib
if any("equals_the_formula" in path.read_text() for path in pathlib.Path().rglob("*.ipynb")):
    del leaky_states
""",
        1,
    ),
    "the release key is read": ("import os\nleaky = os.environ.get('RNN2RAG_RELEASE_KEY')\nassert not leaky", 1),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory, project):
    """A course with one problem set."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "chapters").mkdir()
    for name in ("_toc.yml", "nbgrader_config.py"):
        (folder / name).write_bytes((project / name).read_bytes())
    for part in ("solutions", "exercises"):
        (folder / part / SET).mkdir(parents=True)
        for file in (project / part / SET).iterdir():
            if file.is_file():
                (folder / part / SET / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def project():
    return course.root(Path(__file__).parent)


@pytest.fixture(scope="module")
def results(tree):
    """The result of each attack, graded as one class together with a right answer."""
    import nbformat

    reference = editions.read(tree / "solutions" / SET / "recurrent-networks.md")
    right = next(c for c in reference.cells if course.grader_data(c).get("grade_id") == "leaky-cell").source
    start = "def leaky_states(inputs, *rest, **named):\n    if inputs.shape[1] == 7:  # in the hidden tests\n"
    late = {
        "dies late": f"{start}        import os; os._exit(1)\n",
        "never ends": f"{start}        while True: pass\n",
    }
    call = "    return _right(inputs, *rest, **named)\n"
    inner = right.replace("def leaky_states", "def _right")
    answers = {"right": (right, "")} | {name: (begin + call + inner, "") for name, begin in late.items()}
    answers |= {name: (ANSWER, beside) for name, (beside, _) in ATTACKS.items()}
    students = {}
    for number, (name, (answer, beside)) in enumerate(answers.items()):
        notebook = execute.read(tree / "exercises" / SET / NOTEBOOK)
        cell = next(c for c in notebook.cells if course.grader_data(c).get("grade_id") == "leaky-cell")
        cell.source = f"{answer}\n\n{beside}"
        students[name] = f"student-{number}"
        path = tree / "submitted" / students[name] / SET / NOTEBOOK
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(worker, "CELL_TIMEOUT", 8.0)
    graded = coordinator.grade(tree, SET, intake.collect(tree, SET, None), jobs=2)
    monkeypatch.undo()
    by_student = {result.student: result for result in graded}
    return {name: by_student[student] for name, student in students.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_earns_what_its_answer_deserves(results, name):
    assert not results[name].refused
    assert results[name].points == ATTACKS[name][1], results[name]


def test_the_right_answer_beside_them_earns_everything(results):
    assert (results["right"].points, results["right"].possible) == (6, 8)  # 2 points wait for a person
    assert not results["right"].notes


@pytest.mark.parametrize(("name", "note"), [("dies late", "stopped: the kernel died"), ("never ends", None)])
def test_what_goes_wrong_late_keeps_what_was_earned(results, name, note):
    assert results[name].points == 3
    assert note is None or note in results[name].notes


def test_nobody_is_told_a_hidden_value(tree, results):
    pages = [path.read_text(encoding="utf8") for path in (tree / "feedback").rglob("*.html")]
    assert len(pages) == len(results)
    key = (tree / gradebook.KEY_FILE).read_text(encoding="utf8").strip()
    assert not any(key in page or "make_batch" in page for page in pages)


def test_the_probe_half_knows_no_verdict(project):
    tests = [c for c in editions.read(project / "solutions" / SET / "recurrent-networks.md").cells]
    sources = [c.source for c in tests if course.grader_data(c).get("grade") and c.cell_type == "code"]
    assert len(sources) == 2
    for source in sources:
        parts = split.halves(source)
        assert parts.problem == "leaky-cell" and parts.variable == "problem"
        for secret in ("0.1904", "0.0866", "expected", "verdict", "swapped"):
            assert secret not in parts.probe
        assert "leaky_states" not in parts.verdict


@pytest.mark.parametrize("source", ["", "1 +", "assert f(1) == 2", "problem.score()", "x = 1\nx.score(2)"])
def test_a_cell_of_another_form_is_not_split(source):
    assert split.halves(source) is None


def test_the_judge_scores_values_and_names_faults():
    source = """
problem = checks.Problem("p")

@problem.probe
def answer(seed):
    return answer_of_the_student(seed)

@problem.verdict(answer, points=2)
def is_the_seed(value, seed):
    checks.equal(value, seed)

problem.score()
"""
    parts = split.halves(source)
    with split.Judge("from rnn2rag import checks", "a key") as judge:
        right = {"answer": {"ok": checks.seed_of("p", "a key")}}
        assert judge.score(parts, right)[checks.SCORE_MIME]["points"] == 2
        for wrong in ({"answer": {"ok": 0}}, {"answer": {"error": "raised"}}, {}, {"answer": {"no": 1}}):
            assert judge.score(parts, wrong)[checks.SCORE_MIME]["points"] == 0
        broken = split.Halves("p", "problem", "", "raise KeyError('x')")
        with pytest.raises(UserError, match="cannot be run"):
            judge.score(broken, {})
        assert judge.score(parts, right)[checks.SCORE_MIME]["points"] == 2
        json.dumps(judge.score(parts, right))
