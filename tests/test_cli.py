"""The command line: one clear line for each bad input, a package that imports at once, and floors that hold."""

import ast
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SET, copy_set, make_tree, one_line, rnn2rag, write_section

from rnn2rag import cli

PACKAGE = ROOT / "rnn2rag"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A course with a problem set, a section, and files that are no notebooks."""
    tree = make_tree(tmp_path_factory.mktemp("course"))
    copy_set(tree)
    write_section(tree, "cell", "%%\n1")
    (tree / "chapters" / "index.md").write_text("# A page\n", encoding="utf8")
    (tree / "text.ipynb").write_text("this is not JSON", encoding="utf8")
    (tree / "empty.ipynb").write_text("", encoding="utf8")
    (tree / "old.ipynb").write_text(json.dumps({"nbformat": 3, "worksheets": []}), encoding="utf8")
    return tree


BAD = {
    "frobnicate": "argument COMMAND: invalid choice: 'frobnicate' (choose from 'doctor', ",
    "": "the following arguments are required: COMMAND; `rnn2rag --help` shows the use",
    "--frob": "the following arguments are required: COMMAND",
    "grade": "the following arguments are required: SET; `rnn2rag grade --help` shows the use",
    "grade 03-x": f"there is no problem set '03-x'; the sets are: {SET}",
    f"grade {SET}": f"nothing is submitted for {SET}: put notebooks into submitted/STUDENT/{SET}/, or use --submitted",
    f"grade {SET} --submitted nowhere.zip": "nowhere.zip: there is no such file or folder",
    "prove 03-x": f"there is no problem set '03-x'; the sets are: {SET}",
    "prove --jobs 0": "argument --jobs: must be a whole number from 1 on, not '0'",
    "notebooks --jobs many": "argument --jobs: must be a whole number from 1 on, not 'many'",
    "notebooks nowhere.md": "nowhere.md: is no text notebook under chapters/, and holds none",
    "notebooks chapters/index.md": "chapters/index.md: is no text notebook under chapters/, and holds none",
    "notebooks --check solutions": "solutions: is no text notebook under chapters/, and holds none",
    f"claims chapters/{SET}/cell.md": f"chapters/{SET}/cell.md: is no text notebook under chapters/, and holds none",
    "check text.ipynb": "text.ipynb: is not a notebook: it is not JSON (Expecting value: line 1 column 1 (char 0))",
    "check empty.ipynb": "empty.ipynb: is not a notebook: it is not JSON",
    "check old.ipynb": "old.ipynb: is not a notebook of format 4; open it in JupyterLab and save it again",
    "check nowhere.ipynb": "nowhere.ipynb: there is no such file",
    "check chapters": "chapters: cannot be read ([Errno 21] Is a directory",
    "fetch nothing-like-it": "",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line(tree, monkeypatch, capfd, arguments):
    monkeypatch.chdir(tree)
    try:
        status = cli.main(arguments.split())
    except SystemExit as end:
        status = end.code
    captured = capfd.readouterr()
    assert one_line(status, captured.out, captured.err).startswith(f"rnn2rag: {BAD[arguments]}")


@pytest.mark.parametrize("command", [f"grade {SET}", "notebooks", "claims", "exercises", "prove", "book"])
def test_outside_of_the_tree_is_one_line(tmp_path, monkeypatch, capfd, command):
    monkeypatch.chdir(tmp_path)
    status = cli.main(command.split())
    captured = capfd.readouterr()
    said = one_line(status, captured.out, captured.err)
    assert (
        said
        == f"rnn2rag: {tmp_path} is not inside the course's tree: go to the folder that holds _toc.yml and chapters/"
    )


def test_the_installed_command(tree):
    program = Path(sys.executable).with_name("rnn2rag")
    run = subprocess.run([program, "grade", "03-x"], cwd=tree / "chapters", capture_output=True, text=True)
    assert "there is no problem set '03-x'" in one_line(run.returncode, run.stdout, run.stderr)
    run = subprocess.run([program, "--version"], cwd=tree, capture_output=True, text=True)
    assert re.fullmatch(r"rnn2rag \d+\.\d+\.\d+\n", run.stdout) and (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    "command", ["", *re.findall(r'command\("(\w+)"', (PACKAGE / "cli.py").read_text(encoding="utf8"))]
)
def test_help(capsys, command):
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: rnn2rag {command}".rstrip())


def test_check_works_anywhere(tmp_path):
    (tmp_path / "mine.ipynb").write_text("{}", encoding="utf8")
    assert "mine.ipynb: is not a notebook of format 4" in one_line(*rnn2rag(tmp_path, "check", "mine.ipynb"))


# Import


def import_costs(statement):
    """Microseconds that importing takes beyond a bare interpreter, by module; and what is loaded afterwards."""
    program = f"{statement}; import sys; print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_START"}
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|( +)(\S+)$", run.stderr, re.M)
    return {name: int(own) for own, _, name in lines}, set(run.stdout.split())


def test_import_is_quick():
    bare = {name for name in import_costs("pass")[0]}
    spent = []
    for _ in range(5):
        costs, loaded = import_costs("import rnn2rag")
        spent.append(sum(own for name, own in costs.items() if name not in bare) / 1000)
    assert statistics.median(spent) < 50, spent
    assert not loaded & {"torch", "numpy", "transformers", "datasets", "matplotlib", "nbformat", "IPython", "pandas"}


@pytest.mark.parametrize(
    "room", ["cli", "checks", "execute", "course", "grading.gradebook", "grading.intake", "authoring.proofs"]
)
def test_rooms_load_what_is_heavy_when_it_is_used(room):
    _, loaded = import_costs(f"import rnn2rag.{room}")
    assert f"rnn2rag.{room}" in loaded
    assert not loaded & {"torch", "numpy", "transformers", "datasets", "matplotlib", "nbgrader", "jupytext", "IPython"}


# Structure

FLOORS = {
    0: {"errors"},
    1: {"machine"},
    2: {"catalog"},
    3: {"models", "data", "train", "show", "quiz", "checks", "execute", "course", "pretend"},
    4: {"plan"},
    5: {"authoring", "grading", "doctor"},
    6: {"cli"},
}
NEIGHBORS = {("authoring", "grading")}  # planted answers are scored as submissions are


def rooms_imported(path):
    """The rooms of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "rnn2rag":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rnn2rag."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rnn2rag.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
    return found - {"__version__"}


def files():
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if "built" not in path.parts and path.parent != PACKAGE / "assets"
    ]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_the_floors_below(path):
    floor_of = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    imported = rooms_imported(path)
    if room == "__init__":
        assert not imported
        return
    assert room in floor_of, f"{room} stands on no floor"
    wrong = {other for other in imported - {room} if floor_of.get(other, 9) >= floor_of[room]}
    wrong -= {other for one, other in NEIGHBORS if one == room and path.name == "proofs.py"}
    assert not wrong, f"{path.name} imports {sorted(wrong)}"


def test_no_room_bears_the_name_of_a_public_function():
    import rnn2rag as package

    rooms = set().union(*FLOORS.values()) | {"built"}
    public = {name for name in package.__all__ if name not in rooms and not name.startswith("__")}
    assert public == {"UserError", "runtime"} and not public & {path.stem for path in PACKAGE.iterdir()}
    assert set(dir(package)) >= public
