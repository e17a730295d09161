"""Grading that is killed at random moments, and grading on a full disk: the class must end with the same grades.

    python tests/grading/chaos.py --rounds 30 --seed 1

A class is graded undisturbed once. Then each round grades it afresh in a copy of its tree, as a command, and kills
what grades it, with SIGKILL, one to three times: the command itself, a worker, the warm process of the sandbox, the
supervisor of a kernel, a kernel, the process that judges. The same command is started again until it ends by itself.
Every fifth round fills the disk instead. In the end the gradebook, grades.csv and the results must equal the
undisturbed ones; no process and no temporary file may be left, and the gradebook must be whole. The last line says how
many rounds held.
"""

import argparse
import contextlib
import csv
import ctypes
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import honest

ROOT = Path(__file__).parents[2]
COURSE = Path(__file__).with_name("course")  # a small problem set
COMMAND = (sys.executable, "-c", "from rnn2rag.cli import main; raise SystemExit(main())", "grade", honest.SET)
KINDS = (
    *("loop", "blank", "swapped shares", "class", "syntax error", "numpy", "prints much", "an error in a cell before"),
    *("reads a file", "stderr in a cell", "plain cell", "sleeps"),
)
CLONE_NEWNS, PR_SET_CHILD_SUBREAPER = 0x00020000, 36  # of Linux: sched.h, sys/prctl.h
LIBC = ctypes.CDLL(None)
ROLES = ("coordinator", "judge", "worker", "zygote", "supervisor", "kernel")
LONGEST = 300  # seconds of one command
MOST_RUNS = 8  # of the same command, until it ends by itself
DISK = 24 << 20  # bytes of the disk that is filled


class Broken(Exception):
    """What a round found wrong, in one line."""


def course(folder):
    """A course's tree with the class that is graded."""
    folder.mkdir()
    for name in ("_toc.yml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "chapters").mkdir()
    for part in ("solutions", "exercises"):
        ignore = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(COURSE / part / honest.SET, folder / part / honest.SET, ignore=ignore)
    (folder / "release.key").write_text("c4a5" * 16 + "\n", encoding="utf8")
    released = json.loads((COURSE / "exercises" / honest.SET / honest.NAME).read_text(encoding="utf8"))
    known = honest.kinds(COURSE)
    filled = (honest.filled(released, known[kind]) for kind in KINDS)
    honest.write(folder, {honest.student(number): nb for number, nb in enumerate(filled)})
    return folder


# Processes


def processes():
    """{process: (parent, state, command line)} of this machine."""
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:2]
            command = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[int(name)] = (int(parent), state, command)
    return found


def descendants(ancestor):
    """The living descendants of a process with their command lines, parents first."""
    known = processes()
    found, family = {}, [ancestor]
    for member in family:
        for process, (parent, state, command) in known.items():
            if parent == member and state != "Z":
                found[process] = (parent, command)
                family.append(process)
    return found


def victims(process):
    """{role: processes} of a grading command that runs."""
    found = descendants(process)
    roles = {"coordinator": [process]}
    forked = {}  # of the warm process: how often it was forked until here
    for member, (parent, command) in found.items():
        if "-m rnn2rag.grading.split" in command:
            roles.setdefault("judge", []).append(member)
        elif "-m rnn2rag.execute.zygote" in command and not command.partition(" ")[0].endswith("bwrap"):
            forked[member] = forked.get(parent, -1) + 1
            role = ("zygote", "supervisor", "kernel")[min(forked[member], 2)]
            roles.setdefault(role, []).append(member)
        elif "multiprocessing.spawn" in command or "multiprocessing.forkserver" in command:
            roles.setdefault("worker", []).append(member)
        elif "ipykernel_launcher" in command:
            roles.setdefault("kernel", []).append(member)
    return roles


def left():
    """The descendants of this process that still run after a while; those that ended are taken away."""
    until = time.monotonic() + 20
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        living = descendants(os.getpid())
        if not living or time.monotonic() > until:
            return [command[:80] for _, command in living.values()]
        time.sleep(0.1)


def own_shared_memory():
    """Give this process and what it starts a /dev/shm of their own, where root may do so."""
    if os.geteuid() == 0 and LIBC.unshare(CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)


# One command


class Run:
    """The grading command in a tree, with temporary files in a folder of its own."""

    def __init__(self, tree, scratch):
        self.said = tempfile.TemporaryFile("w+", encoding="utf8")
        self.problems = tempfile.TemporaryFile("w+", encoding="utf8")
        self.process = subprocess.Popen(
            [*COMMAND, "--jobs", "2", "--json"],
            cwd=tree,
            env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=self.problems,
        )
        self.start = time.monotonic()

    def wait(self, until):
        """Whether it ends before a moment; what lost its parent and ended meanwhile is taken away, as init would."""
        while self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and ended.si_pid != self.process.pid:
                os.waitpid(ended.si_pid, 0)
        return self.process.poll() is not None

    def end(self):
        """Return its status, its results (None unless it graded), and its stderr. Raises Broken for a bad end."""
        if not self.wait(self.start + LONGEST):
            self.process.kill()
            raise Broken(f"the command does not end within {LONGEST} s")
        self.said.seek(0)
        self.problems.seek(0)
        status, said, problems = self.process.returncode, self.said.read(), self.problems.read().strip()
        if status in (0, 1) and said:
            return status, json.loads(said), problems
        if status == 2 and len(problems.splitlines()) == 1 and problems.startswith("rnn2rag: "):
            return status, None, problems
        if status == -signal.SIGKILL:
            return status, None, problems
        raise Broken(f"status {status}: {' | '.join(problems.splitlines()[-3:])}")


def grades(tree, results):
    """Everything that must not depend on what was killed."""
    with contextlib.closing(sqlite3.connect(tree / "gradebook.db")) as database:
        whole = database.execute("pragma integrity_check").fetchall()
    if whole != [("ok",)]:
        raise Broken(f"the gradebook is damaged: {whole[0][0]}")
    from nbgrader.api import Gradebook

    rows = {}
    with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
        for submission in gradebook.assignment_submissions(honest.SET):
            notebook = submission.notebooks[0]
            cells = {g.name: (g.auto_score, g.max_score, g.needs_manual_grade) for g in notebook.grades}
            comments = {c.name: c.auto_comment for c in notebook.comments}
            if submission.student.id in rows:
                raise Broken(f"{submission.student.id} has two submissions in the gradebook")
            rows[submission.student.id] = (cells, comments, submission.score, submission.max_score)
    with (tree / "grades.csv").open(encoding="utf8") as file:
        exported = [(row["student_id"], row["score"]) for row in csv.DictReader(file)]
    told = [(r["student"], r["points"], r["possible"], r["manual"], r["refused"], r["messages"]) for r in results]
    pages = sorted(path.relative_to(tree).as_posix() for path in tree.glob("feedback/*/*/*.html"))
    return {"gradebook": rows, "grades.csv": sorted(exported), "results": told, "feedback pages": pages}


def finished(tree, scratch, first):
    """Run the command, the first time as given, until it ends by itself; return its results and how often it ran."""
    run = first
    for count in range(1, MOST_RUNS + 1):
        status, results, _ = run.end()
        if results is not None:
            return results, count
        run = Run(tree, scratch)
    raise Broken(f"the command did not end by itself in {MOST_RUNS} runs; the last status was {status}")


def compared(tree, results, undisturbed):
    """Raises Broken where the grades are not those of the undisturbed run."""
    for what, value in grades(tree, results).items():
        if value != undisturbed[what]:
            notes = [f"{result['student']}: {note}" for result in results for note in result["notes"]]
            raise Broken(f"{what} differs: {difference(undisturbed[what], value)}; {notes}")


def difference(expected, got):
    """The first difference between two lists or dicts, short."""
    pairs = (
        [(expected.get(key), got.get(key)) for key in sorted({*expected, *got})]
        if isinstance(expected, dict)
        else [*zip(expected, got, strict=False), (len(expected), len(got))]
    )
    return next((f"expected {one}, got {other}"[:400] for one, other in pairs if one != other), "their order")


# Rounds


def killed(tree, scratch, undisturbed, seconds, chance):
    """Grade while one to three processes are killed; return what was done in words."""
    run = Run(tree, scratch)
    deeds = []
    for _ in range(chance.randint(1, 3)):
        role, moment = chance.choice(ROLES), time.monotonic() + chance.uniform(0.2, 0.9 * seconds)
        if deeds and deeds[-1][0] == "coordinator":
            run.end()
            run = Run(tree, scratch)
        run.wait(moment)
        while not run.wait(time.monotonic() + 0.02):
            found = victims(run.process.pid).get(role)
            if found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(found), signal.SIGKILL)
                    deeds.append((role, time.monotonic() - run.start))
                break
    kills = ", ".join(f"{role} at {moment:.1f} s" for role, moment in deeds) or "nothing, it was faster"
    try:
        results, runs = finished(tree, scratch, run)
        compared(tree, results, undisturbed)
    except Broken as broken:
        raise Broken(f"killed {kills}; {broken}") from None
    return f"killed {kills}; ended by itself in run {runs}", [role for role, _ in deeds]


def filled(tree, scratch, undisturbed, chance):
    """Grade on a disk with little room left; then with room. Return what was done in words."""
    disk = tree.parent / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)
    try:
        on_disk = shutil.copytree(tree, disk / "course")
        room = int(4096 * 2 ** chance.uniform(0, 9))
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(max(0, free - room)))
        status, results, problems = Run(on_disk, scratch).end()
        if status not in (0, 2):
            raise Broken(f"on a full disk: status {status}, {problems[:200]}")
        (disk / "filler").unlink()
        results, _ = (results, 1) if status == 0 else finished(on_disk, scratch, Run(on_disk, scratch))
        compared(on_disk, results, undisturbed)
        said = problems if status else "there was enough"
        return f"{room >> 10} KiB left on the disk: {said}"
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def main():
    """Run the rounds; return 0 where all held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whoever loses its parent becomes a child of this process
    own_shared_memory()
    chance = random.Random(options.seed)
    counts, kills = Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        template = course(Path(folder, "template"))
        tree = shutil.copytree(template, Path(folder, "undisturbed"))
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        start = time.monotonic()
        status, results, problems = Run(tree, scratch).end()
        seconds = time.monotonic() - start
        if status != 0:
            sys.exit(f"the undisturbed run ended with status {status}: {problems}")
        undisturbed = grades(tree, results)
        lying = [*left(), *os.listdir(scratch), *os.listdir("/dev/shm")]
        if lying:
            sys.exit(f"the undisturbed run left behind: {lying}")
        print(f"undisturbed: {len(results)} submissions in {seconds:.1f} s", flush=True)
        for number in range(1, options.rounds + 1):
            before = {*os.listdir(scratch), *os.listdir("/dev/shm")}
            tree = shutil.copytree(template, Path(folder, f"round-{number}", "course"))
            outcome = "held"
            try:
                if number % 5 == 3 and os.geteuid() != 0:
                    said, outcome = "a full disk: only root can make one", "not run"
                elif number % 5 == 3:
                    said = filled(tree, scratch, undisturbed, chance)
                    kills["full disk"] += 1
                else:
                    start = time.monotonic()
                    said, roles = killed(tree, scratch, undisturbed, seconds, chance)
                    kills.update(roles)
                    if not roles:  # the machine is faster now
                        seconds = min(seconds, time.monotonic() - start)
                living = left()
                if living:
                    raise Broken(f"{said}; left running: {living}")
                lying = sorted({*os.listdir(scratch), *os.listdir("/dev/shm")} - before)
                if lying:
                    raise Broken(f"{said}; left lying: {lying}")
            except Broken as broken:
                said, outcome = str(broken), "BROKEN"
                for process in descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                left()
                shutil.rmtree(scratch)
                scratch.mkdir()
            counts[outcome] += 1
            print(f"round {number:3}: {outcome}: {said}", flush=True)
            shutil.rmtree(tree.parent, ignore_errors=True)
    done = ", ".join(f"{name} {count}" for name, count in sorted(kills.items()))
    rounds = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"{options.rounds} rounds: {rounds}; {done}")
    return 1 if counts["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
