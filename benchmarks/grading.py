"""How long a class takes to grade: stock `nbgrader autograde` against `rnn2rag grade`, the same honest submissions.

Both run as commands, in turn, each in a tree of its own that starts with the same gradebook and release key; the first
submissions of the class warm the machine and are not counted. CPU is what a command and all its descendants used, as
the system's control group counts it where one can be made; elsewhere the larger of what they were waited for and of
what the whole machine spent meanwhile, since processes in a sandbox may end without anyone waiting for them: then
nothing else should run beside it. The cells' own time is a lower bound: the
code cells of the same notebooks, run by `exec` in one warm process without a kernel. Memory is the proportional share
(PSS) of all processes of a command together, looked at twice a second.

The last line is `ratio: wall W, CPU C`: stock's time over ours. `--scale N` grades N submissions with ours alone.
"""

import argparse
import contextlib
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "grading"))

import honest  # noqa: E402

PROGRAMS = Path(sys.executable).parent
WARM_UP = 2  # submissions
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """What a command used.

    wall: seconds. counted, waited, machine: CPU seconds by its control group (None without one), waited for, and of the
    whole machine. memory: bytes at its peak.
    """

    wall: float
    counted: float | None
    waited: float
    machine: float
    memory: int

    @property
    def cpu(self) -> float:
        """CPU seconds, none lost."""
        return max(self.waited, self.machine) if self.counted is None else self.counted


class Watch(threading.Thread):
    """Looks twice a second at the memory of a process and all its descendants."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.peak = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Keep the largest sum."""
        while not self.over.wait(0.5):
            self.peak = max(self.peak, sum(proportional(process) for process in family(self.process)))


def family(process: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = [process]
    for member in found:
        found += children.get(member, [])
    return found


def proportional(process: int) -> int:
    """Bytes of a process, what it shares divided by those who share it; all of it where that cannot be read."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
        return 0
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


@contextlib.contextmanager
def control_group() -> Iterator[Path | None]:
    """A control group of version 2 for one command; None where this user may not make one."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    group = Path(next((folder for folder, kind in mounts if kind == "cgroup2"), "/"), f"rnn2rag-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        while "populated 1" in (group / "cgroup.events").read_text():
            time.sleep(0.1)
        group.rmdir()


def counted_by(group: Path | None) -> float | None:
    """CPU seconds of all that ever ran in a control group."""
    if group is None:
        return None
    microseconds = next(line for line in (group / "cpu.stat").read_text().splitlines() if line.startswith("usage_usec"))
    return int(microseconds.split()[1]) / 1e6


def busy() -> float:
    """CPU seconds that the machine has spent since it started, but for this process."""
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / TICK - time.process_time()


def waited_for() -> float:
    """CPU seconds of the descendants of this process that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def spend(tree: Path, *command: str) -> Spent:
    """Run a command in a tree. Ends the benchmark with what the command said where it fails."""
    start, waited, machine = time.perf_counter(), waited_for(), busy()
    with control_group() as group, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(PROGRAMS / command[0]), *command[1:]],
            cwd=tree,
            stdout=said,
            stderr=said,
            preexec_fn=(lambda: (group / "cgroup.procs").write_text("0")) if group else None,
        )
        watch = Watch(process.pid)
        watch.start()
        status = process.wait()
        wall = time.perf_counter() - start
        watch.over.set()
        watch.join()
        spent = Spent(wall, counted_by(group), waited_for() - waited, busy() - machine, watch.peak)
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(command)} failed in {tree}:\n{said.read().decode(errors='replace')[-3000:]}")
    return spent


def made(folder: Path, students: dict[str, dict], template: Path | None = None) -> Path:
    """A course's tree with submissions; gradebook and release key come from a template, else nbgrader makes them."""
    if template is None:
        folder.mkdir()
        for name in ("_toc.yml", "nbgrader_config.py"):
            shutil.copy(ROOT / name, folder)
        (folder / "chapters").mkdir()
        for part in ("solutions", "exercises"):
            ignore = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / part / honest.SET, folder / part / honest.SET, ignore=ignore)
        (folder / "release.key").write_text("5eed" * 16 + "\n", encoding="utf8")
        spend(folder, "nbgrader", "generate_assignment", honest.SET, "--force")
    else:
        shutil.copytree(template, folder)
    honest.write(folder, students)
    return folder


def scores(tree: Path) -> dict[str, dict[str, tuple[float | None, float | None, bool]]]:
    """{student: {cell: (points by the grader, most, whether a person must look)}} in a gradebook."""
    from nbgrader.api import Gradebook

    found = {}
    with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
        for submission in gradebook.assignment_submissions(honest.SET):
            grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
            found[submission.student.id] = {g.name: (g.auto_score, g.max_score, g.needs_manual_grade) for g in grades}
    return found


def cells_alone(tree: Path) -> float:
    """CPU seconds a submission that the code cells of graded notebooks need by themselves, in one warm process."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, __file__, "--cells", str(tree)]
        run = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
    return float(run.stdout.splitlines()[-1])


def run_cells(tree: Path) -> None:
    """Run the code cells of every graded notebook of a tree twice; print the CPU seconds of the second time."""
    import json

    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    paths = sorted(tree.glob(f"autograded/*/{honest.SET}/*.ipynb"))
    sources = [
        [
            "".join(cell["source"])
            for cell in json.loads(path.read_bytes())["cells"]
            if cell["cell_type"] == "code" and "skip-execution" not in cell["metadata"].get("tags", ())
        ]
        for path in paths
    ]
    for _ in range(2):
        start = time.process_time()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            for cells in sources:
                names = {"__name__": "__main__"}
                for source in cells:
                    with contextlib.suppress(Exception):  # magics and wrong answers raise here, too
                        exec(source, names)  # noqa: S102
                plt.close("all")
        spent = time.process_time() - start
    print(spent / len(paths))


def machine() -> str:
    """This machine in words."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        return (
            f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Linux {platform.release()}, "
            f"Python {platform.python_version()}, torch {version('torch')}, nbgrader {version('nbgrader')}"
        )
    return platform.platform()


def compare(count: int, rounds: int, jobs: int) -> None:
    """Grade the class with both in turn and print what each took."""
    students = honest.submissions(ROOT, count, slow=False)
    commands = {
        "stock": ("nbgrader", "autograde", honest.SET),
        "ours": ("rnn2rag", "grade", honest.SET, "--jobs", str(jobs), "--again"),
    }
    spent: dict[str, list[Spent]] = {who: [] for who in commands}
    with tempfile.TemporaryDirectory(prefix="rnn2rag-benchmark-") as folder:
        template = made(Path(folder, "template"), {})
        few = dict(list(students.items())[:WARM_UP])
        for who, command in commands.items():
            spend(made(Path(folder, f"warm-{who}"), few, template), *command)
        at_rest = idle()
        for number in range(rounds):
            trees = {who: made(Path(folder, f"{who}-{number}"), students, template) for who in commands}
            order = list(commands) if number % 2 == 0 else list(commands)[::-1]
            for who in order:
                spent[who].append(spend(trees[who], *commands[who]))
                one = spent[who][-1]
                print(
                    f"round {number + 1}, {who}: wall {one.wall:.1f} s, CPU {one.cpu:.1f} s "
                    f"({one.waited:.1f} s waited for, {one.machine:.1f} s by the whole machine)",
                    flush=True,
                )
            graded = {who: scores(tree) for who, tree in trees.items()}
            if graded["stock"] != graded["ours"] or len(graded["ours"]) != count:
                different = [name for name in students if graded["stock"].get(name) != graded["ours"].get(name)]
                sys.exit(f"the scores differ: {', '.join(different)}")
        alone = cells_alone(trees["stock"])
    wall, cpu, memory = (
        {who: statistics.median(getattr(one, what) for one in spent[who]) for who in commands}
        for what in ("wall", "cpu", "memory")
    )
    print(f"\n{machine()}")
    print(
        f"{count} submissions, {rounds} rounds, ours with {jobs} jobs, sandbox and split tests on; same scores in both"
    )
    print(f"the machine at rest spends {at_rest:.1%} of a core\n")
    print(f"{'a submission':24}{'wall s':>10}{'CPU s':>10}{'peak memory MiB':>18}")
    for who in commands:
        print(f"{who:24}{wall[who] / count:10.3f}{cpu[who] / count:10.3f}{memory[who] / 2**20:18.0f}")
    print(f"{'the cells alone':24}{'':10}{alone:10.3f}")
    print(f"{'ours beyond the cells':24}{'':10}{cpu['ours'] / count - alone:10.3f}\n")
    print(f"ratio: wall {wall['stock'] / wall['ours']:.1f}, CPU {cpu['stock'] / cpu['ours']:.1f}")


def idle() -> float:
    """CPU seconds a second that the machine spends while the benchmark does nothing."""
    start, before = time.perf_counter(), busy()
    time.sleep(3)
    return (busy() - before) / (time.perf_counter() - start)


def scale(count: int, jobs: int) -> None:
    """Grade many submissions with ours alone; print the rate over each tenth of the run."""
    students = honest.submissions(ROOT, count, slow=False)
    with tempfile.TemporaryDirectory(prefix="rnn2rag-benchmark-") as folder:
        tree = made(Path(folder, "course"), students, made(Path(folder, "template"), {}))
        over = threading.Event()
        moments: list[float] = []

        def watch() -> None:
            while len(moments) < count and not over.wait(0.2):
                graded = sum(1 for _ in tree.glob(f"autograded/*/{honest.SET}/{honest.NAME}"))
                moments.extend([time.perf_counter()] * (graded - len(moments)))

        watching = threading.Thread(target=watch)
        start = time.perf_counter()
        watching.start()
        spent = spend(tree, "rnn2rag", "grade", honest.SET, "--jobs", str(jobs), "--again")
        over.set()
        watching.join()
        results = len(scores(tree))
    print(f"{machine()}\n{results} submissions of {count} in the gradebook, {jobs} jobs")
    print(f"start: the first result after {moments[0] - start:.1f} s")
    for part, (first, last) in enumerate(tenths(moments), 1):
        print(f"tenth {part:2}: {(last - first) / (moments[last] - moments[first]):6.2f} submissions a second")
    print(
        f"wall {spent.wall / count:.3f} s and CPU {spent.cpu / count:.3f} s a submission, "
        f"peak memory {spent.memory / 2**20:.0f} MiB"
    )


def tenths(moments: list[float]) -> Iterator[tuple[int, int]]:
    """The first and the last result of each tenth."""
    edges = [round(part * (len(moments) - 1) / 10) for part in range(11)]
    yield from zip(edges, edges[1:], strict=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="submissions in the class")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="of ours")
    parser.add_argument("--scale", type=int, metavar="N", help="grade N submissions with ours alone")
    parser.add_argument("--cells", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cells:
        run_cells(options.cells)
    elif options.scale:
        scale(options.scale, options.jobs)
    else:
        compare(options.count, options.rounds, options.jobs)


if __name__ == "__main__":
    main()
