"""Teaching with it: what Gradescope and GitHub would run is run here, in a root of its own or in a fresh folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, SET, copy_package, copy_set, graded_cell, make_tree
from grading import attacks

from rnn2rag.errors import UserError
from rnn2rag.execute import sandbox
from rnn2rag.grading import gradescope

NAME = attacks.NAME
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# What Docker leaves to root in a container that is given nothing more.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A course's whole tree, as far as the package for Gradescope needs it."""
    tree = make_tree(tmp_path_factory.mktemp("teaching") / "course")
    copy_package(tree)
    copy_set(tree)
    shutil.rmtree(tree / "assets" / "claims")
    for name in ("_config.yml", "requirements.txt"):
        shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def packed(tree, tmp_path_factory):
    """The package for Gradescope."""
    into = tmp_path_factory.mktemp("packed") / "autograder.zip"
    gradescope.pack(tree, SET, into)
    return into


# Gradescope


def container(root, *command, network=False, environment=()):
    """Run a command as root in a container: a root of its own, and no more capabilities than Docker leaves."""
    program = sandbox.program()
    options = [program, "--bind", root, "/", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    options += [] if network else ["--unshare-net"]
    options += ["--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}"))]
    for name in ("lib", "lib32", "lib64", "bin", "sbin"):
        top = Path("/", name)
        options += ["--symlink", os.readlink(top), top] if top.is_symlink() else ["--ro-bind-try", top, top]
    for path in ("/usr", "/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/alternatives"):
        options += ["--ro-bind-try", path, path]
    for path in map(Path, {sys.base_prefix, sys.prefix, sysconfig.get_path("purelib")}):
        for parent in reversed(path.parents[:-1]):
            options += ["--perms", "0755", "--dir", parent]
        options += ["--ro-bind", path, path]
    options += ["--proc", "/proc", "--dev", "/dev", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin:/usr/sbin:/sbin"]
    options += ["--setenv", "HOME", "/root", "--setenv", "OMP_NUM_THREADS", "1", "--chdir", "/autograder"]
    return subprocess.run([*map(str, options), "--", *command], capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def image(packed, tmp_path_factory):
    """The image that setup.sh makes. Its environment may use the packages that are installed here already."""
    if sys.platform != "linux" or os.geteuid() or sandbox.obstacle():
        pytest.skip("not run: needs root and bubblewrap, to make a container")
    root = tmp_path_factory.mktemp("image")
    for folder in ("autograder/source", "tmp", "root", "opt", "var/tmp"):
        (root / folder).mkdir(parents=True)
    for folder in (root, root / "root"):  # this machine's Python may lie under the second
        folder.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(root / "autograder" / "source")
    shutil.copy(root / "autograder" / "source" / "run_autograder", root / "autograder" / "run_autograder")
    (root / "autograder" / "run_autograder").chmod(0o755)
    made = container(root, sys.executable, "-m", "venv", "--without-pip", "/opt/rnn2rag")
    assert made.returncode == 0, made.stderr
    site = next((root / "opt" / "rnn2rag" / "lib").glob("python3*")) / "site-packages"
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf8")
    (root / "opt" / "rnn2rag" / "bin" / "alembic").symlink_to(Path(sysconfig.get_path("scripts"), "alembic"))
    made = container(root, "bash", "/autograder/source/setup.sh")
    assert made.returncode == 0, made.stderr
    assert (site / "rnn2rag" / "grading" / "gradescope.py").exists()
    return root


@pytest.fixture
def submit(image, tmp_path):
    """Hand in files to a new container of the image; gives results.json, what instructors see, and the container."""

    def submit(network=False, **files):
        root = tmp_path / f"container-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(image, root, symlinks=True)
        (root / "autograder" / "results").mkdir()
        for file, content in files.items():
            path = root / "autograder" / "submission" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf8")
        about = {"created_at": "2027-03-01T14:22:32-07:00", "users": [{"name": "Ada", "email": "ada@example.com"}]}
        (root / "autograder" / "submission_metadata.json").write_text(json.dumps(about), encoding="utf8")
        ran = container(root, "/autograder/run_autograder", network=network)
        assert ran.returncode == 0, ran.stderr
        results = json.loads((root / "autograder" / "results" / "results.json").read_text(encoding="utf8"))
        return results, ran.stdout + ran.stderr, root

    return submit


def answered(answer, code=""):
    """The released notebook with an answer, and code before it that runs at once."""
    nb = json.loads(attacks.RELEASED.read_text(encoding="utf8"))
    graded_cell(nb, attacks.ANSWER)["source"] = code + "\n" + answer
    return nb


def points(results):
    return results.get("score", sum(test["score"] for test in results["tests"]))


def test_a_right_answer(submit):
    results, said, root = submit(**{NAME: answered(attacks.RIGHT)})
    assert points(results) == sum(test["max_score"] for test in results["tests"]) == 6, said
