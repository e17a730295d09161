"""The bundle for a place without a network: what is in it, what stops it, and what the installer refuses.

The whole course is bundled, installed and used without a network by `python .ci/bundle.py`, which takes minutes; here a
small tree is, with packages made here and a book of one page.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, SET, copy_package, copy_set, make_tree, secrets, text_of, write_section

from rnn2rag.authoring import bundle
from rnn2rag.errors import UserError

TORCH = importlib.metadata.version("torch")
CARRIER = "carrier-1.0-py3-none-any.whl"
LEAST = {"README.md", "install.py", "made-for.json", "SHA256SUMS", "course/requirements.txt", "course/run"}


def make_wheel(shelf, name, version):
    """A wheel of nothing but its name."""
    shelf.mkdir(parents=True, exist_ok=True)
    path, info = shelf / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def git(tree, *arguments):
    subprocess.run(["git", "-C", tree, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tree in git, and a shelf that is all pip can see."""
    folder = tmp_path_factory.mktemp("bundle")
    tree = make_tree(folder / "course")
    copy_package(tree)
    copy_set(tree)
    write_section(tree, "recurrent-cell", "# The section that the set links")
    for name in ("assets/bundle/install.py", "tests/test_one.py", "benchmarks/one.py", ".ci/run", "run"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("nothing\n")
    (tree / "assets/bundle/install.py").write_bytes((ROOT / "assets/bundle/install.py").read_bytes())
    (tree / "run").chmod(0o755)
    (tree / ".gitignore").write_text("_build/\nrelease.key\n")
    (tree / "requirements.txt").write_text(f"tiny==1.0  # a package\ntorch=={TORCH.partition('+')[0]}\n")
    git(tree, "init")
    git(tree, "add", ".")
    for name in ("release.key", "not-in-git.md"):
        (tree / name).write_text("the teacher's own\n")
    for name, version in {"tiny": "1.0", "torch": TORCH, "pip": importlib.metadata.version("pip")}.items():
        make_wheel(folder / "shelf", name, version)
    return tree, folder / "shelf"


@pytest.fixture(scope="module")
def tree(world, tmp_path_factory):
    """That tree, with pip and book as they are to be."""
    tree, shelf = world
    folder = tmp_path_factory.mktemp("made")
    page = folder / "html" / "index.html"
    (page.parent / "static").mkdir(parents=True)
    for path in (page, page.parent / "static" / "book.css"):
        path.write_text("a page\n")
    (folder / CARRIER).write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(shelf)}.items():
            patch.setenv(f"PIP_{name}", value)
        patch.setattr(bundle.book, "build", lambda tree: page)
        patch.setattr(bundle.catalog, "download", lambda into: [folder / CARRIER])
        yield tree


@pytest.fixture(scope="module")
def packed(tree):
    """Its bundle."""
    return bundle.pack(tree)


@pytest.fixture
def unpacked(packed, tmp_path):
    """The bundle as a teacher has it, unpacked."""
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "rnn2rag-for-teachers"


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_teachers_folder_holds_a_folder_for_students(unpacked):
    students, teachers = names(unpacked / "students"), names(unpacked)
    wheels = {f"{name}-py3-none-any.whl" for name in ("tiny-1.0", f"torch-{TORCH}", "rnn2rag-0.1.0")}
    wheels.add(f"pip-{importlib.metadata.version('pip')}-py3-none-any.whl")
    assert LEAST | {"book/index.html", "book/static/book.css", f"carriers/{CARRIER}"} <= students
    assert {name for name in students if name.startswith("wheels/")} == {f"wheels/{name}" for name in wheels}
    assert f"course/exercises/{SET}/recurrent-networks.ipynb" in students
    assert not [name for name in students if name.split("/")[1:2] in ([part] for part in bundle.TEACHERS)]
    its_own = {name for name in teachers if not name.startswith("students/")}
    assert LEAST | {f"course/solutions/{SET}/misconceptions.py", "course/tests/test_one.py"} <= its_own
    assert not [name for name in teachers if "release.key" in name or "not-in-git" in name]
    assert "students/" in (unpacked / "README.md").read_text() and platform.machine() in (
        (unpacked / "students" / "README.md").read_text()
    )


def test_students_get_no_line_of_a_solution_or_hidden_test():
    """Of the real tree: what a student's folder holds of it, with what the book's own test looks at."""
    given = [path for name, path in bundle.tracked_files(ROOT).items() if bundle.for_students(name)]
    read = [path for path in given if path.suffix in {".md", ".ipynb", ".py", ".json", ".toml", ".txt", ".js"}]
    assert len(read) > 50
    assert not [f"{path}: {line}" for path in read for text in [text_of(path)] for line in secrets() if line in text]


def test_the_sums_are_those_of_all_files(unpacked):
    for folder in (unpacked, unpacked / "students"):
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        assert sums.keys() == names(folder) - {"SHA256SUMS"}
        assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sums[name] for name in sums)


def test_the_archive_is_the_same_twice_and_stores_what_is_compressed(tree, packed):
    first = packed.read_bytes()
    assert packed.name == f"rnn2rag-for-teachers-{platform.system()}-{platform.machine()}-{version()}.zip"
    assert bundle.pack(tree).read_bytes() == first
    with zipfile.ZipFile(packed) as archive:
        for member in archive.infolist():
            stored = member.compress_type == zipfile.ZIP_STORED
            assert stored == member.filename.endswith(".whl"), member.filename
        modes = {
            name: archive.getinfo(f"rnn2rag-for-teachers/course/{name}").external_attr for name in ("run", "_toc.yml")
        }
    assert {name: oct(stat.S_IMODE(mode >> 16)) for name, mode in modes.items()} == {
        "run": "0o755",
        "_toc.yml": "0o644",
    }


def version():
    return ".".join(platform.python_version_tuple()[:2])


def test_an_interrupted_run_leaves_the_old_archive_and_nothing_else(tree, packed, monkeypatch):
    before = packed.read_bytes()

    def interrupted(source, copy, length):
        copy.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundle.pack(tree)
    assert [found.name for found in packed.parent.iterdir()] == [packed.name] and packed.read_bytes() == before


def test_a_build_of_torch_comes_from_torchs_index_where_pips_own_has_none(tree, world, monkeypatch, tmp_path):
    """Which is here a folder of this machine, as the index of the build `cpu`."""
    real = importlib.metadata.version
    installed = lambda name: "2.13.0+cpu" if name == "torch" else real(name)  # noqa: E731
    monkeypatch.setattr(bundle.importlib.metadata, "version", installed)
    shelf = shutil.copytree(world[1], tmp_path / "shelf", ignore=shutil.ignore_patterns("torch-*"))
    wheel = make_wheel(tmp_path / "cpu" / "torch", "torch", "2.13.0+cpu")
    wheel.with_name("index.html").write_text(f'<a href="{wheel.as_uri()}">{wheel.name}</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    course = shutil.copytree(tree, tmp_path / "course")
    (course / "requirements.txt").write_text("tiny==1.0\ntorch==2.13.0\n")
    with pytest.raises(UserError, match=r"No matching distribution found for torch==2\.13\.0\+cpu"):
        monkeypatch.setattr(bundle, "TORCH_INDEX", (tmp_path / "none").as_uri() + "/")
        bundle.bring_wheels(course, tmp_path / "wheels")
    monkeypatch.setattr(bundle, "TORCH_INDEX", f"{tmp_path.as_uri()}/")
    bundle.bring_wheels(course, tmp_path / "wheels")
    assert (tmp_path / "wheels" / "torch-2.13.0+cpu-py3-none-any.whl").exists()


@pytest.mark.parametrize("wrong", ["a package that pip cannot get", "no git"])
def test_what_stops_it_is_one_line(tree, monkeypatch, tmp_path, wrong):
    if wrong == "no git":
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
        says = r"holds what git tracks, and git cannot tell it here: fatal: not a git repository"
    else:
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        says = r"pip could not get the wheels: No matching distribution found for (tiny==1\.0|torch==)"
    with pytest.raises(UserError, match=says) as error:
        bundle.pack(tree)
    assert "\n" not in str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def made_for(folder, **other):
    path = folder / "made-for.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **other}))


@pytest.mark.parametrize("part", [".", "students"])
@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda folder, tiny: cut(tiny), "wheels/tiny-1.0-py3-none-any.whl is not what was packed"),
        (lambda folder, tiny: tiny.unlink(), "wheels/tiny-1.0-py3-none-any.whl is missing"),
        (lambda folder, tiny: cut(folder / "course" / "run"), "course/run is not what was packed"),
        (lambda folder, tiny: (folder / "SHA256SUMS").unlink(), "SHA256SUMS: No such file or directory"),
        (lambda folder, tiny: made_for(folder, python="3.99"), "for Python 3.99, and this is"),
        (lambda folder, tiny: made_for(folder, machine="mips"), f"for {platform.system()} on mips, and this is"),
    ],
    ids=["changed wheel", "missing wheel", "changed course", "no sums", "other Python", "other machine"],
)
def test_the_installer_refuses_in_one_line(unpacked, part, wrong, says):
    folder = unpacked / part
    wrong(folder, next(folder.rglob("tiny-1.0*.whl")))
    ran = subprocess.run([sys.executable, "install.py"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith("install: ") and says in ran.stderr
    assert not (folder / "course" / ".venv").exists()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_the_installer_makes_the_environment_anew_where_the_folder_was_moved(unpacked, where):
    """In this small bundle pip is but a name, so making it anew ends there; what is installed has no program."""
    course = unpacked / "course"
    digest = hashlib.sha256((unpacked / "SHA256SUMS").read_bytes()).hexdigest()
    (course / ".venv").mkdir()
    (course / ".venv" / "ready").write_text(f"{course if where == 'here' else '/elsewhere'}\n{digest}\n")
    if where == "here":
        cut(course / "run")  # what was installed is the reader's, who may change it
    ran = subprocess.run([sys.executable, "install.py"], cwd=unpacked, capture_output=True, text=True)
    [line] = ran.stderr.splitlines()
    assert ran.returncode == 1 and line.startswith("install: ")
    assert ("making course/.venv" in ran.stdout) == (where == "elsewhere")
    assert ("installing 4 packages" in line and "failed: " in line) == (where == "elsewhere")
    assert ("bin/rnn2rag: No such file" in line) == (where == "here")
