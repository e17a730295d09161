"""Grading survives what kills it: a few rounds of tests/grading/chaos.py."""

import subprocess
import sys

from conftest import ROOT


def test_a_class_that_is_killed_and_resumed_ends_with_the_same_grades():
    command = [sys.executable, str(ROOT / "tests" / "grading" / "chaos.py"), "--rounds", "3", "--seed", "7"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    lines = run.stdout.splitlines()
    assert sum(line.startswith("round") for line in lines) == 3
    assert lines[-1].startswith("3 rounds: ") and "BROKEN" not in lines[-1]
