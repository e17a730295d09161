"""The pages of chapter 0 on reading, running and handing in: each command on them is run as it is written there."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, graded_cell, load

PAGES = {name: ROOT / "chapters" / "00-start-here" / f"{name}.md" for name in ("index", "read", "submit")}
PROGRAMS = Path(sys.executable).parent
CHECK = ".venv/bin/rnn2rag check my-copy/recurrent-networks.ipynb"

# What is run, in the order of its page: its exit status, and what its output must hold.
RUN = {
    "python3 -m venv .venv": (0, ""),
    ".venv/bin/rnn2rag fetch": (0, "grimm: in the cache\n"),
    ".venv/bin/rnn2rag doctor": (0, "\nThe embedded course can be read, run and checked here.\n"),
    ".venv/bin/rnn2rag --help": (0, "usage: rnn2rag "),
    "mkdir my-copy": (0, ""),
    "cp exercises/01-recurrent-networks/recurrent-networks.ipynb my-copy/": (0, ""),
    CHECK: (1, "points in the tests that run here\n"),  # 1: points are missing, since nothing is filled in yet
}


def dry_run(command, *wanted):
    """What make would do holds the wanted lines, and their programs are there."""
    ran = subprocess.run(["bash", "-c", f"{command} --dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert not [line for line in wanted if line not in lines], ran.stdout
    assert not [line for line in wanted if not (PROGRAMS / Path(line.split()[0]).name).exists()]


def pinned(command):
    """The release of torch that is pinned, and the words of the README."""
    release = re.search(r"torch==[\d.]+", command)[0]
    assert re.search(rf"^{re.escape(release)}\s", (ROOT / "requirements.txt").read_text(encoding="utf8"), re.M)
    assert f"$ {command}\n" in (ROOT / "README.md").read_text(encoding="utf8")


# What is not run, with what is tried in its place.
NOT_RUN = {
    # downloads torch: the network, and minutes
    ".venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": pinned,
    # installs from the network on its first run, builds for minutes; `rnn2rag book` is a part of tests/run.py
    "make book": lambda command: dry_run(command, ".venv/bin/rnn2rag book"),
    # the same, and stays until Ctrl-C
    "make lab": lambda command: dry_run(command, ".venv/bin/rnn2rag lab"),
}


def commands(text):
    """The commands of the console blocks of a page, without their comments."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    return [
        re.split(r"\s+#\s", line[2:])[0].strip() for block in blocks for line in block.splitlines() if line[:2] == "$ "
    ]


def untried(text):
    return [command for command in commands(text) if command not in RUN.keys() | NOT_RUN.keys()]


def on(page):
    return PAGES[page].read_text(encoding="utf8")


@pytest.fixture
def folder(tmp_path):
    """What a reader has after the set-up: the exercises, and `.venv` with the course's program."""
    shutil.copytree(ROOT / "exercises", tmp_path / "exercises")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "rnn2rag").symlink_to(PROGRAMS / "rnn2rag")
    return tmp_path


def run(command, folder):
    ran = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    return ran.returncode, ran.stdout, ran.stderr


def test_a_new_command_is_noticed():
    page = "Text, `rnn2rag doctor`.\n\n```console\n$ mkdir my-copy  # once\n$ rnn2rag new\nits output\n```\n"
    assert commands(page) == ["mkdir my-copy", "rnn2rag new"] and untried(page) == ["rnn2rag new"]


def test_every_command_is_tried_and_every_block_is_known():
    found = [command for page in PAGES for command in commands(on(page))]
    assert [command for page in PAGES for command in untried(on(page))] == []
    assert set(found) == RUN.keys() | NOT_RUN.keys() and not RUN.keys() & NOT_RUN.keys()
    for page in PAGES:
        text = on(page)
        blocks = re.findall(r"^```(\S*)$\n(.*?)^```$", text, re.M | re.S)
        assert {kind for kind, _ in blocks} <= {"console", "python", "text"}, page
        assert not [body for kind, body in blocks if kind != "console" and re.search(r"^\$ ", body, re.M)]


@pytest.mark.parametrize("page", ["read", "submit"])
def test_the_commands_of_a_page_do_what_it_says(page, folder):
    assert commands(on("index")) == []
    for command in commands(on(page)):
        if command in NOT_RUN:
            NOT_RUN[command](command)
            continue
        status, holds = RUN[command]
        ended, stdout, stderr = run(command, folder)
        assert (ended, stderr) == (status, "") and holds in stdout, f"{command}\n{stdout}\n{stderr}"


def test_commands_within_the_text_are_there():
    status, usage, _ = run(f"'{PROGRAMS / 'rnn2rag'}' --help", ROOT)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M))
    assert status == 0 and targets
    for page in PAGES:
        named = re.findall(r"`(?:\.venv/bin/)?rnn2rag (\w+)[^`]*`", on(page))
        assert [name for name in named if not re.search(rf"^    {name}\b", usage, re.M)] == []
        assert set(re.findall(r"`make (\w+)[^`]*`", on(page))) <= targets


def test_the_report_on_the_page_is_what_a_mistake_gets(folder):
    """The report in submit.md, against the planted answer that makes that mistake."""
    shown = re.search(r"^```text\n(leaky-cell: .*?)^```", on("submit"), re.M | re.S)[1].splitlines()
    answers = (ROOT / "solutions" / "01-recurrent-networks" / "misconceptions.py").read_text(encoding="utf8")
    tree = {node.name: node for node in ast.parse(answers).body if isinstance(node, ast.FunctionDef)}
    source = ast.get_source_segment(answers, tree["swapped_shares"])
    path = folder / "my-copy" / "recurrent-networks.ipynb"
    shutil.copytree(folder / "exercises" / "01-recurrent-networks", path.parent)
    nb = load(path)
    cell = graded_cell(nb, "leaky-cell")
    assert "raise NotImplementedError" in "".join(cell["source"])
    cell["source"] = source.replace("swapped_shares", "leaky_states")
    path.write_text(json.dumps(nb), encoding="utf8")
    status, stdout, stderr = run(CHECK, folder)
    report = stdout.replace("leaky-cell-test:", "leaky-cell:").splitlines()
    assert (status, report[: len(shown)]) == (1, shown), stderr


def test_settings_named_on_the_page_choose(folder):
    """Each variable of read.md changes the line that `runtime` prints."""
    wanted = {"DEVICE": "cpu", "PRECISION": "float16", "THREADS": "1", "SEED": "7", "SCALE": "full"}
    assert set(re.findall(r"`RNN2RAG_(\w+)", on("read"))) == set(wanted)
    settings = " ".join(f"RNN2RAG_{name}={value}" for name, value in wanted.items())
    code = re.search(r"^```python\n(.*?)^```", on("read"), re.M | re.S)[1]
    (folder / "code.py").write_text(code, encoding="utf8")
    status, stdout, stderr = run(f"{settings} '{sys.executable}' code.py", folder)
    assert status == 0 and stdout.endswith("cpu · float16 · 1 thread · full scale · seed 7\n"), stdout + stderr
