"""Teaching with it: what Gradescope and GitHub would run is run here, in a root of its own or in a fresh folder."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SET, copy_package, copy_set, graded_cell, make_tree, one_line, rnn2rag
from grading import attacks

from rnn2rag.execute import sandbox
from rnn2rag.grading import gradescope, intake

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


def test_the_package_holds_what_it_needs_and_no_other_key(tree, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        wheel = zipfile.ZipFile(io.BytesIO(archive.read(next(name for name in names if name.endswith(".whl")))))
        key = archive.read("course/release.key").decode().strip()
        setup = archive.read("setup.sh").decode()
    assert {"setup.sh", "run_autograder", "requirements.txt", "course/nbgrader_config.py"} < set(names)
    assert {f"course/{part}/{SET}/{NAME}" for part in ("solutions", "exercises")} < set(names)
    assert re.fullmatch("[0-9a-f]{64}", key) and key != (tree / "release.key").read_text(encoding="utf8").strip()
    assert "rnn2rag/grading/gradescope.py" in wheel.namelist()
    assert not [name for name in wheel.namelist() if name.startswith(("rnn2rag/built/rec", "rnn2rag/assets/claims/"))]
    assert "fetch" not in setup and stat.S_IMODE(packed.stat().st_mode) == 0o600


def test_a_set_that_loads_models_or_data_fetches_them(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "course")
    source = tmp_path / "course" / "solutions" / SET / NAME
    nb = json.loads(source.read_text(encoding="utf8"))
    graded_cell(nb, attacks.ANSWER)["source"] = 'tales = data.load("grimm")\nencoder = models.load("minilm")'
    source.write_text(json.dumps(nb), encoding="utf8")
    gradescope.pack(tmp_path / "course", SET, tmp_path / "autograder.zip")
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert "rnn2rag fetch grimm minilm\n" in archive.read("setup.sh").decode()


def test_what_cannot_be_packed_is_one_line(tree, tmp_path):
    assert "there is no problem set '03-x'" in one_line(*rnn2rag(tree, "gradescope", "03-x"))
    said = one_line(*rnn2rag(tree, "gradescope", SET, "--into", "nowhere/autograder.zip"))
    assert said == "rnn2rag: nowhere/autograder.zip: cannot be written (No such file or directory)"
    make_tree(tmp_path / "bare")
    copy_set(tmp_path / "bare")
    assert "holds no rnn2rag/ and pyproject.toml to pack" in one_line(*rnn2rag(tmp_path / "bare", "gradescope", SET))


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
        left = "{ grep -hs ^Uid: /proc/[0-9]*/status; true; }"  # one may end between the list and the look
        ran = container(root, "bash", "-c", f"./run_autograder && {left}", network=network)
        assert ran.returncode == 0, ran.stderr
        assert set(re.findall(r"^Uid:\t(\d+)", ran.stdout, re.M)) == {"0"}, "processes are left"
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


def names(results):
    return [test["name"].partition(": ")[2].partition(": ")[2] for test in results["tests"]]


def test_a_right_answer_earns_everything_and_hidden_tests_wait_for_publication(submit):
    results, said, root = submit(**{NAME: answered(attacks.RIGHT)})
    assert points(results) == sum(test["max_score"] for test in results["tests"]) == 6, said
    assert {test["status"] for test in results["tests"]} == {"passed"}
    assert [test["visibility"] for test in results["tests"]] == 3 * ["visible"] + 2 * ["after_published"]
    assert names(results) == [
        "has one state for each step",
        "agrees with the hand calculation",
        "keeps the state after a sequence ends",
        "gives the right states for other shapes, lengths and weights",
        "lets autograd follow every step back to the weights",
    ]
    assert [test["number"] for test in results["tests"]] == ["1.1", "1.2", "1.3", "1.4", "1.5"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in (root / "autograder").iterdir()}
    closed = ("source", "submission", "results", "submission_metadata.json")
    assert {modes[name] for name in closed} == {0o700} and not list((root / "tmp").glob("rnn2rag-*"))


def test_a_wrong_answer_gets_the_messages_of_the_feedback_page(submit):
    results, said, _ = submit(**{"final version.ipynb": answered(attacks.ZEROS)})  # whatever its name
    assert points(results) == 1, said
    by_name = dict(zip(names(results), results["tests"], strict=True))
    assert by_name["agrees with the hand calculation"]["output"].startswith("right shape, wrong values: 4 of 4 differ")
    hidden = [test for test in results["tests"] if test["visibility"] != "visible"]
    assert [(test["score"], test["output"]) for test in hidden] == [(0, ""), (0, "")]


def test_a_blank_set_and_a_free_text_answer(submit):
    nb = json.loads(attacks.RELEASED.read_text(encoding="utf8"))
    graded_cell(nb, "leak-and-error")["source"] = "About a third is left."
    results, said, _ = submit(**{NAME: nb})
    assert points(results) == 0 and len(results["tests"]) == 5, said
    assert results["tests"][0]["output"] == "Nothing is written here yet."
    assert results["output"] == "Free-text answers are graded by a person."


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({NAME: "this is not JSON"}, "This cannot be graded: is not a notebook: it is not JSON"),
        ({"essay.txt": "About leaks."}, "This cannot be graded: There is no notebook in it."),
    ],
    ids=["broken", "no notebook"],
)
def test_what_cannot_be_graded_earns_nothing_and_says_why(submit, files, said):
    results, _, _ = submit(**files)
    assert results["score"] == 0 and results["tests"] == [] and results["output"].startswith(said), results


def test_what_the_submission_could_read_is_refused(image, tmp_path):
    root = tmp_path / "container"
    shutil.copytree(image, root, symlinks=True)
    (root / "autograder" / "source").chmod(0o711)  # who knows a name in it could open that
    look = "from pathlib import Path; from rnn2rag.execute import sandbox; sandbox.check('user', [Path('source')])"
    ran = container(root, "/opt/rnn2rag/bin/python", "-I", "-c", look)
    assert "another user, as whom a submission runs, reaches source: `chmod go= source`" in ran.stderr
    (root / "autograder" / "source").chmod(0o700)
    assert container(root, "/opt/rnn2rag/bin/python", "-I", "-c", look).returncode == 0
    (root / "opt" / "rnn2rag").chmod(0o700)
    ran = container(root, "/opt/rnn2rag/bin/python", "-I", "-c", look)
    assert "another user, as whom a submission runs, cannot run Python here" in ran.stderr


# Reads what it must not, writes its own results, ends other processes, calls out, and stays; one success is enough.
EVERYTHING = """
import os, pathlib, shutil, signal, socket, subprocess, sys, time

for place in ("source", "results", "submission", "submission_metadata.json", "results/results.json", "source/course"):
    try:
        os.listdir(f"/autograder/{place}") if "json" not in place else open(f"/autograder/{place}").read()
        won(f"read {place}")
    except OSError:
        pass
for path, content in texts():
    if b"def equals_the_" + b"formula" in content:
        won(path)
for place in ("/autograder/results/results.json", "/autograder/results.json", "/opt/rnn2rag/bin/python", "/etc/passwd"):
    try:
        open(place, "w").write('{"score": 100}')
        won(f"wrote {place}")
    except OSError:
        pass
for process in processes():
    for what in ("environ", "mem", "maps", "root/autograder/source", "fd/0"):
        try:
            open(f"/proc/{process}/{what}", "rb").read(1)
            won(f"read {what} of {process}")
        except OSError:
            pass
    try:
        os.kill(process, signal.SIGKILL)
        if os.stat(f"/proc/{process}").st_uid == 0:
            won(f"killed {process}")
    except OSError:
        pass
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family)
        won(f"has a socket of {family}")
    except OSError:
        pass
STAY = "import os, time; os.setsid(); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", STAY])
print("I am", os.getuid(), os.getgid(), os.getgroups())
"""


def test_attackers_reach_nothing_even_with_the_network_on(submit):
    nb = attacks.notebook(attacks.Attack("everything", "all at once", answer=attacks.ZEROS, code=EVERYTHING))
    results, said, root = submit(network=True, **{NAME: nb})
    assert points(results) == 1 and len(results["tests"]) == 5, said
    assert not [folder for folder in (root / "tmp").iterdir() if "zygote" in folder.name]


# Ends every process that it may, again and again, in many copies: whoever grades has to end them all.
KILLERS = """
import os, signal

for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                os.kill(-1, signal.SIGKILL)
            except OSError:
                pass
            if os.fork():
                os._exit(0)
"""


def test_processes_that_fork_and_kill_are_ended(submit):
    results, said, _ = submit(**{NAME: answered(attacks.ZEROS, KILLERS)})
    assert points(results) == 0 and results["tests"], said
    assert "process ended" in json.dumps(results), results


OUTSIDE = (
    *("stays-behind", "stays-and-answers", "kills-all", "kills-parents", "stops-others", "root", "name-spaces"),
    *("remounted", "root-folder-changed", "traces-others", "limits-raised", "devices", "system-calls"),
    *("search-solutions", "search-hidden-tests", "search-planted-answers", "search-other-students"),
    *("search-gradebook", "search-release-key", "search-claims", "environment", "command-lines"),
    *("memory-of-others", "descriptors", "restored-notebook", "own-notebook-linked", "course-edited", "home-edited"),
    *("packages-edited", "network", "kernels-called", "built-loaded", "fork-bomb", "memory-bomb-of-many"),
    *("answers-in-advance", "answer-endless", "cells-stolen", "socket-closed", "socket-kept", "socket-of-a-child"),
)
GRADE = """
import json, pathlib, sys
sys.path.insert(0, "/srv/main/tests")


def main():
    from grading import attacks
    from rnn2rag import execute
    from rnn2rag.grading import coordinator, intake, results, worker

    worker.CELL_TIMEOUT = attacks.CELL_TIMEOUT
    here = pathlib.Path("/srv/main")
    execute.sandbox.check("user", [here])
    with attacks.surroundings(here) as calls:
        tree = attacks.make_course(here)
        attacks.submit(tree, attacks.students([one for one in attacks.ATTACKS if one.name in NAMES]))
        made = coordinator.grade(tree, attacks.SET, intake.collect(tree, attacks.SET, None), mode="user")
    print(results.as_json(made), json.dumps([calls, attacks.leftovers()]), sep="\\0")


if __name__ == "__main__":
    main()
"""


def test_the_attacks_on_what_lies_around_in_a_container(image, tmp_path):
    root = tmp_path / "container"
    shutil.copytree(image, root, symlinks=True)
    main = root / "srv" / "main"
    main.mkdir(parents=True, mode=0o700)
    (main / "tests").mkdir()
    shutil.copytree(ROOT / "tests" / "grading", main / "tests" / "grading")
    for part in ("solutions", "exercises"):
        shutil.copytree(ROOT / part / SET, main / part / SET, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("_toc.yml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, main / name)
    (main / "grade.py").write_text(GRADE.replace("NAMES", repr(OUTSIDE)), encoding="utf8")
    ran = container(root, "/opt/rnn2rag/bin/python", "-I", "/srv/main/grade.py", network=True)
    assert ran.returncode == 0, ran.stderr
    made, left = map(json.loads, ran.stdout.split("\0"))
    tried = [one for one in attacks.ATTACKS if one.name in OUTSIDE]
    klass = attacks.students(tried)
    assert len(tried) == len(OUTSIDE) and [result["student"] for result in made] == list(klass)
    deserved = {student: one.deserves if one else 6 for student, one in klass.items()}
    got = {result["student"]: result["points"] for result in made}
    assert {klass[student].name: points for student, points in got.items() if points > deserved[student]} == {}
    assert [result for result in made if klass[result["student"]] is None and result["points"] != 6] == []
    assert left == [[], []]


# GitHub


def environment(folder):
    """An environment of its own that may use the packages that are installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf8")
    return folder / "bin"


@pytest.fixture(scope="module")
def repository(packed, tmp_path_factory):
    """A student's repository as its template makes it, and the run steps of its workflow."""
    folder = tmp_path_factory.mktemp("github") / "set1-ada"
    workflows = folder / ".github" / "workflows"
    workflows.mkdir(parents=True)
    shutil.copy(ROOT / "assets" / "classroom" / "classroom.yml", workflows)
    shutil.copy(attacks.RELEASED, folder)
    with zipfile.ZipFile(packed) as archive:
        archive.extract(next(name for name in archive.namelist() if name.endswith(".whl")), folder)
    workflow = yaml.safe_load((workflows / "classroom.yml").read_text(encoding="utf8"))
    assert workflow["permissions"] == {"contents": "read"} and list(workflow["jobs"]) == ["run-autograding-tests"]
    steps = workflow["jobs"]["run-autograding-tests"]["steps"]
    return folder, [step["run"] for step in steps if "run" in step], environment(folder.parent / "environment")


def run_steps(repository, tmp_path):
    """Run the steps as GitHub does; gives the status of the last, what they printed, and the summary."""
    folder, steps, programs = repository
    shutil.copytree(folder, tmp_path / "checkout")
    summary = tmp_path / "summary.md"
    settings = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(summary)}
    said = ""
    for step in steps:
        ran = subprocess.run(
            ["bash", "-e", "-c", step], cwd=tmp_path / "checkout", env=settings, capture_output=True, text=True
        )
        said += ran.stdout + ran.stderr
        if ran.returncode:
            break
    return ran.returncode, said, summary.read_text(encoding="utf8") if summary.exists() else ""


@pytest.mark.parametrize(("answer", "status", "earned"), [(attacks.RIGHT, 0, 3), (attacks.ZEROS, 1, 1)])
def test_the_workflow_reports_the_visible_points(repository, tmp_path, answer, status, earned):
    (repository[0] / NAME).write_text(json.dumps(answered(answer)), encoding="utf8")
    got, said, summary = run_steps(repository, tmp_path)
    assert got == status, said
    assert f'::notice title=Autograding report::{{"totalPoints":{earned},"maxPoints":3}}' in said.splitlines()
    assert f"### {NAME}" in summary and f"leaky-cell-test: {earned} of 3 points" in summary


def test_the_workflow_says_what_cannot_be_run(repository, tmp_path):
    (repository[0] / NAME).write_text("{}", encoding="utf8")
    status, said, _ = run_steps(repository, tmp_path)
    assert status == 1 and "is not a notebook of format 4" in said
    assert '{"totalPoints":0,"maxPoints":0}' in said


def test_nothing_hidden_is_in_a_students_repository(repository):
    folder = repository[0]
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        contents = [wheel.read(name) for name in wheel.namelist()]
    contents += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(contents) > 40 and not [text for text in contents if b"equals_the_formula" in text]


def test_cloned_repositories_are_a_class(tree, tmp_path):
    for student in ("set1-ada", "set1-ben"):
        clone = tmp_path / "clones" / student
        (clone / ".git").mkdir(parents=True)
        (clone / ".git" / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf8")
        (clone / "README.md").write_text("My work.\n", encoding="utf8")
        shutil.copy(attacks.RELEASED, clone)
    found = intake.collect(tree, SET, tmp_path / "clones")
    assert [(one.student, one.refused) for one in found] == [("set1-ada", ""), ("set1-ben", "")]
