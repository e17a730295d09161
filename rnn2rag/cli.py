"""The command `rnn2rag`: thin; each subcommand calls one room."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rnn2rag import __version__, course, machine
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 something failed, 2 wrong use, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"rnn2rag: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rnn2rag: interrupted; what was done is kept, and the same command goes on from there", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage."""
        self.exit(2, f"rnn2rag: {message}; `{self.prog} --help` shows the use\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rnn2rag", description="The course From RNN to RAG.")
    parser.add_argument("--version", action="version", version=f"rnn2rag {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(run=run)
        return added

    doctor = command("doctor", _doctor, "try everything that notebooks use on this machine")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.add_argument("--bench", action="store_true", help="time each kind of kernel instead, in one line to paste")
    fetch = command("fetch", _fetch, "bring models and data into the cache")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="models and data of the catalog (default: all)")
    check = command("check", _check, "run a filled-in exercise from the top and show its points")
    check.add_argument("notebook", type=Path, metavar="NOTEBOOK")

    grade = command("grade", _grade, "grade the submissions of a problem set")
    grade.add_argument("set", metavar="SET", help="for example 01-recurrent-networks")
    grade.add_argument("--submitted", type=Path, metavar="DIR|ZIP|NOTEBOOK", help="submissions to bring in first")
    grade.add_argument("--only", nargs="+", default=[], metavar="STUDENT", help="grade these students alone")
    grade.add_argument("--again", action="store_true", help="grade those too that have not changed since the last run")
    where = grade.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=_jobs, default=machine.available_cores(), metavar="N", help="how many at a time")
    where.add_argument("--scheduler", metavar="ADDRESS", help="let the workers of this Dask scheduler run them")
    sandboxed = grade.add_mutually_exclusive_group()
    sandboxed.add_argument("--no-sandbox", action="store_true", help="run submissions as you, unprotected; recorded")
    sandboxed.add_argument(
        "--one-container", action="store_true", help="protect by another user, in a container as root"
    )
    grade.add_argument("--json", action="store_true", help="print the results as JSON")

    gradescope = command("gradescope", _gradescope, "pack a problem set as an autograder for Gradescope")
    gradescope.add_argument("set", metavar="SET", help="for example 01-recurrent-networks")
    gradescope.add_argument("--into", type=Path, metavar="FILE.zip", help="default: SET-gradescope.zip, here")

    notebooks = command("notebooks", _notebooks, "run the chapters' changed sources and write their editions")
    notebooks.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="sources or folders (default: all)")
    notebooks.add_argument("--check", action="store_true", help="run every edition afresh and write nothing")
    notebooks.add_argument(
        "--jobs", type=_jobs, default=machine.available_cores(), metavar="N", help="how many at a time"
    )
    claims = command("claims", _claims, "run the seed sweeps behind the claims of the sections")
    claims.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="sources or folders (default: all)")
    claims.add_argument("--check", action="store_true", help="check every recipe's hash and run one seed of each again")
    planned = command("plan", _plan, "count the memory that a section takes, before it runs")
    planned.add_argument("path", nargs="?", type=Path, metavar="PATH", help="a section (default: check and store all)")
    planned.add_argument("--scale", choices=machine.SCALES, default="full", help="default: full")
    planned.add_argument("--memory", metavar="SIZE", help="of the device, as in 16GB (default: of this machine's)")
    exercises = command("exercises", _exercises, "make the notebooks that students open from solutions/")
    exercises.add_argument("--check", action="store_true", help="write nothing; fail where something does not match")
    prove = command("prove", _prove, "prove problem sets with planted right and wrong answers")
    prove.add_argument("sets", nargs="*", metavar="SET", help="problem sets (default: all)")
    prove.add_argument("--json", action="store_true", help="print the proofs as JSON")
    prove.add_argument("--jobs", type=_jobs, default=machine.available_cores(), metavar="N", help="how many at a time")
    command("book", _book, "build the book from the sources and the editions' outputs")
    command("lab", _lab, "open the course in JupyterLab")
    command("pdf", _pdf, "print the whole book to one PDF, with an installed Chromium")
    command("zip", _zip, "pack all notebooks with what runs them, to hand out")
    command("bundle", _bundle, "pack the whole course for machines like this one without a network")
    return parser


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _doctor(options: argparse.Namespace) -> int:
    from rnn2rag import doctor

    return doctor.bench() if options.bench else doctor.main(options.json)


def _fetch(options: argparse.Namespace) -> int:
    from rnn2rag import catalog

    catalog.fetch(options.names or None)
    if not options.names or "smollm2" in options.names:
        from rnn2rag import models

        models.prepare()
    return 0


def _check(options: argparse.Namespace) -> int:
    from rnn2rag.grading import worker

    scores = worker.check(options.notebook)
    print(worker.report(scores))
    return 0 if all(score.points == score.possible for score in scores) else 1


def _grade(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from rnn2rag.grading import coordinator, intake, results

    tree = course.root()
    submissions = intake.collect(tree, options.set, options.submitted)
    if options.only:
        unknown = sorted(set(options.only) - {submission.student for submission in submissions})
        if unknown:
            raise UserError(f"nothing is submitted for {options.set} by {', '.join(unknown)}")
    count = len(options.only or submissions)
    mode = "none" if options.no_sandbox else "user" if options.one_container else "bubblewrap"
    problems = 0
    with tqdm(total=count, unit=" submissions", desc=options.set, disable=options.json or None) as progress:

        def done(result: results.Result) -> None:
            nonlocal problems
            problems += bool(result.refused or result.notes)
            progress.set_postfix_str(f"{problems} with remarks", refresh=False)
            progress.update()

        made = coordinator.grade(
            tree,
            options.set,
            submissions,
            options.jobs,
            options.scheduler,
            set(options.only),
            options.again,
            mode,
            done,
        )
    if options.json:
        print(results.as_json(made))
    else:
        width = max(len(result.student) for result in made)
        for result in made:
            score = "refused" if result.refused else f"{result.points:g} of {result.possible:g}"
            remarks = [result.refused] if result.refused else list(result.notes)
            remarks += ["some cells wait for a person"] if result.manual else []
            remarks += ["not changed"] if result.kept else []
            print(f"{result.student:{width}}  {score:>12}  {'; '.join(remarks)}".rstrip())
        waiting = sum(result.manual for result in made)
        if waiting:
            where = "formgrader in `make lab`"
            print(f"waiting for a person: {waiting} ({where}); the import files leave them out until then")
        print(f"scores in {tree / 'gradebook.db'} and grades.csv, pages in feedback/, report in reports/")
    return 1 if any(result.refused for result in made) else 0


def _gradescope(options: argparse.Namespace) -> int:
    from rnn2rag.grading import gradescope

    into = options.into or Path(f"{options.set}-gradescope.zip")
    gradescope.pack(course.root(), options.set, into)
    print(f"{into}: holds the solutions and the hidden tests; upload it, and give it to nobody")
    return 0


def _notebooks(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import built, editions

    tree = course.root()
    chosen = _chosen(editions.sources(tree), options.paths)
    if options.check:
        built.check(tree)
        return min(editions.verify(tree, chosen, options.jobs), 1)
    for path in built.write(tree):
        print(f"      built  {path.relative_to(tree)}")
    return min(editions.update(tree, chosen, options.jobs), 1)


def _claims(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import built, claims

    tree = course.root()
    chosen = _chosen(claims.with_claims(tree), options.paths)
    if options.check:
        built.check(tree)
        for source in chosen:
            claims.check(tree, source)
        return 0
    built.write(tree)
    return 0 if all([claims.sweep(tree, source) for source in chosen]) else 1


def _plan(options: argparse.Namespace) -> int:
    from rnn2rag import plan

    if options.path is None:
        from rnn2rag.authoring import editions, plans

        tree = course.root()
        return 1 if plans.update(tree, editions.sources(tree)) else 0
    memory = plan.parse(options.memory) if options.memory else machine.device_memory()
    plan.report(plan.recipe(_section(options.path)), options.scale, memory)
    return 0


def _section(path: Path) -> NotebookNode:
    """Read a section from its source or its edition."""
    from rnn2rag import execute

    if path.suffix not in (".md", ".ipynb") or not path.exists():
        raise UserError(f"{path}: is no section; name its .md or .ipynb")
    if path.suffix == ".ipynb":
        return execute.read(path)
    from rnn2rag.authoring import editions

    return editions.read(path)


def _exercises(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import exercises

    tree = course.root()
    if options.check:
        exercises.check(tree)
        return 0
    for path in exercises.write(tree):
        print(f"{'made' if path.exists() else 'removed'}  {course.shown(tree, path)}")
    return 0


def _prove(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from rnn2rag.authoring import proofs

    tree = course.root()
    proved = []
    for name in options.sets or course.set_names(tree):
        with tqdm(unit=" answers", desc=name, disable=options.json or None) as progress:
            proved += proofs.prove(tree, name, options.jobs, lambda proof, progress=progress: progress.update())
    if options.json:
        print(proofs.as_json(proved))
    else:
        print(f"{'problem':16}{'answer':34}{'kind':10}{'points':>10}{'seconds':>9}")
        for proof in proved:
            points = f"{proof.least:g}-{proof.most:g}/{proof.possible:g}" if proof.possible else ""
            print(f"{proof.problem:16}{proof.name:34}{proof.kind:10}{points:>10}{proof.seconds:9.1f}")
            for line in proof.amiss:
                print(f"    AMISS  {line}")
    return 1 if any(proof.amiss for proof in proved) else 0


def _book(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import book

    print(f"open {book.build(course.root())}")
    return 0


def _lab(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import lab

    lab.start(course.root())


def _pdf(options: argparse.Namespace) -> int:
    from rnn2rag import doctor
    from rnn2rag.authoring import book

    print(f"open {book.print_pdf(course.root(), doctor.browser_program(), doctor.BROWSER_OPTIONS)}")
    return 0


def _zip(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import handouts

    print(f"hand out {handouts.pack(course.root())}")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from rnn2rag.authoring import bundle

    made = bundle.pack(course.root())
    print(f"{made}: {made.stat().st_size / 1e6:.0f} MB; holds the solutions, so unpack it and give students students/")
    return 0


def _chosen(sources: list[Path], paths: list[Path]) -> list[Path]:
    """The sources that are, or lie in, one of the paths; all where no path is given."""
    if not paths:
        return sources
    chosen = []
    for path in paths:
        inside = [source for source in sources if path.resolve() in (source, *source.parents)]
        if not inside:
            raise UserError(f"{path}: is no text notebook under chapters/, and holds none")
        chosen += inside
    return sorted(set(chosen))
