"""Test cells in two halves, and the process that judges: the attacks on both stand in test_attacks.py."""

import json

import pytest
from conftest import COURSE, SET

from rnn2rag import checks, course
from rnn2rag.authoring import editions
from rnn2rag.errors import UserError
from rnn2rag.grading import split


def test_the_probe_half_knows_no_verdict():
    tests = [c for c in editions.read(COURSE / "solutions" / SET / "recurrent-networks.md").cells]
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
