"""Editions: the notebooks that readers open, made from the text sources that authors edit.

A source is a MyST text notebook, chapters/NN-name/NAME.md. Its edition NAME.ipynb has plain Markdown, the outputs of
the last run, and the run's facts in its metadata; it begins with a cell that brings the package and what the section
loads where they are missing, as on Colab. Generation is one-way: an edition is never edited.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import catalog, show
from rnn2rag.authoring import uses
from rnn2rag.authoring.markdown import Library, Page, is_text_notebook
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from rnn2rag.execute import Run

LARGEST = 400_000  # bytes of an edition
BUDGET = 60.0  # CPU-seconds of a section with one thread
ONE_THREAD = {"RNN2RAG_DEVICE": "cpu", "RNN2RAG_THREADS": "1", "OMP_NUM_THREADS": "1"}
GLUE_PREFIX = "application/papermill.record/"
SET_UP = "set-up"  # the id of the cell that an edition begins with, and its source has not
# "@title" is what Colab shows of a folded cell.
_SET_UP = """\
# @title Brings the course's package and the data of this section, where they are missing
try:
    import rnn2rag
except ModuleNotFoundError:
    {remedy}"""
_INSTALL = """%pip install --quiet "rnn2rag @ {address}"
    import rnn2rag"""
_EXPLAIN = """raise ModuleNotFoundError(
        "rnn2rag is not installed here. Run `pip install .` in the folder of the course, or `pip install` the wheel "
        "that came in one zip with the notebooks. Then run this cell again."
    ) from None"""
# What pip takes, in one line of a notebook; the repository that the course is published in.
_PACKAGE_ADDRESS = re.compile(r"[\w+]+://[\w.:/@+~#&=%-]+")
PUBLIC_ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/?")
# Beside the package of a run without a network: a library that swallows its failure is heard all the same.
_WATCH = """\
import sys


def report(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        print(f"tries the network: {arguments[:2]}", file=sys.stderr)


sys.addaudithook(report)
"""


def sources(root: Path) -> list[Path]:
    """Return every text notebook under chapters/."""
    return [path for path in sorted((root / "chapters").rglob("*.md")) if is_text_notebook(path)]


def edition_path(source: Path) -> Path:
    """Return where the edition of a source stands: beside it."""
    return source.with_suffix(".ipynb")


def read(source: Path) -> NotebookNode:
    """Return a text notebook as a notebook without outputs; cell ids are grade ids or hashes of the cells' text."""
    import jupytext
    import nbformat
    from jupytext.myst import MystMetadataParsingError
    from yaml import YAMLError

    text = source.read_text(encoding="utf8")
    try:
        notebook = jupytext.reads(text, fmt="md:myst")
    except (MystMetadataParsingError, YAMLError, nbformat.ValidationError) as error:
        raise UserError(f"{source}: is not a text notebook ({' '.join(str(error).split())[:200]})") from None
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:8]
        identity = cell.metadata.get("nbgrader", {}).get("grade_id") or digest
        seen[identity] = seen.get(identity, 0) + 1
        cell["id"] = identity if seen[identity] == 1 else f"{identity}-{seen[identity]}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        raise UserError(f"{source}: does not make a valid notebook ({str(error).splitlines()[0]})") from None
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells that a source and its edition share: all but the one that the edition begins with."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.get("id") != SET_UP]


def package_address(root: Path) -> str:
    """Return what pip installs the package from: `package_address` of _config.yml, else the public repository, else "".

    Raises UserError for an address of another form.
    """
    import yaml

    path = root / "_config.yml"
    config = yaml.safe_load(path.read_text(encoding="utf8"))["sphinx"]["config"] if path.exists() else {}
    address, public = config.get("package_address") or "", config.get("public_address") or ""
    if address and not _PACKAGE_ADDRESS.fullmatch(address):
        form = "git+https://github.com/OWNER/NAME, or of a wheel's address"
        raise UserError(f"{path}: package_address is {address!r}; it has the form {form}")
    if public and not PUBLIC_ADDRESS.fullmatch(public):
        raise UserError(f"{path}: public_address is {public!r}; it has the form https://github.com/OWNER/NAME")
    return address or (public and f"git+{public.rstrip('/')}")


def loaded(source: Path, root: Path) -> list[str]:
    """Return the catalog's names of the models and data that a section loads. Raises UserError where it cannot tell."""
    try:
        return uses.loaded([cell.source for cell in code_cells(read(source))], root / "rnn2rag" / "built")
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def code_hash(notebook: NotebookNode) -> str:
    """Return a hash of the code cells and their tags: outputs depend on these, and prose may change without a run."""
    cells = [[cell.source, cell.metadata.get("tags", [])] for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def needs_run(source: Path) -> bool:
    """Whether a source has no edition, or one whose outputs come from other code."""
    edition = edition_path(source)
    if not edition.exists():
        return True
    try:
        old = _load(edition)
    except UserError:  # half written, or with the marks of a merge in it
        return True
    new = read(source)
    return old.metadata.get("rnn2rag", {}).get("code") != code_hash(new) or len(code_cells(old)) != len(code_cells(new))


def write(source: Path, run: Run, library: Library) -> None:
    """Write the edition of a source from a run of it. Raises UserError for one too large or not in the book's MyST."""
    facts = {
        "code": code_hash(read(source)),
        "cpu_seconds": round(run.cpu_seconds, 1),
        "wall_seconds": round(run.wall_seconds, 1),
        "peak_memory": run.peak_memory,
        "device": "CPU, 1 thread",
        "versions": run.versions,
    }
    _save(source, _compose(source, _outputs(run.notebook), facts, library))


def rewrite(source: Path, library: Library) -> bool:
    """Bring an edition whose code has not changed up to its source's prose. Returns whether anything changed."""
    edition = edition_path(source)
    text = _recomposed(source, library)
    if edition.read_text(encoding="utf8") == text:
        return False
    _save(source, text)
    return True


def update(root: Path, chosen: Sequence[Path], jobs: int) -> int:
    """Run the chosen sources that changed, `jobs` at a time, and bring every chosen edition up to date.

    Each edition is written as soon as its run ends, so an interrupted update goes on where it was. Returns the number
    of sources that failed, each reported on stderr.
    """
    from rnn2rag import execute

    library = Library.of(root)
    changed = [source for source in chosen if needs_run(source)]
    failed = 0

    def done(index: int, run: Run) -> None:
        nonlocal failed
        problems = _problems(run)
        if not problems:
            try:
                write(changed[index], run, library)
            except UserError as error:
                problems = [str(error)]
        failed += bool(problems)
        _report(changed[index], root, run, problems)

    tasks = [execute.Task(read(source), environment=ONE_THREAD, network=False) for source in changed]
    print(f"running {len(tasks)} of {len(chosen)} sections, {jobs} at a time")
    execute.run_all(tasks, jobs, done)
    for source in chosen:
        try:
            if source not in changed and rewrite(source, library):
                print(f"      prose  {source.relative_to(root)}")
        except UserError as error:
            failed += 1
            print(f"     FAILED  {error}", file=sys.stderr)
    return failed


def verify(root: Path, chosen: Sequence[Path], jobs: int) -> int:
    """Run the chosen editions afresh, each alone: an empty folder, no network, the package from its wheel.

    The cache holds what the edition's first cell names, and no more. Writes nothing to the tree. Returns the number
    that failed: an error, a failed assertion, stderr noise, a try to reach the network, a stale edition, or more than
    1.5 times the budget of CPU-seconds.
    """
    from rnn2rag import execute

    library = Library.of(root)
    failed = 0
    current = []
    for source in chosen:
        try:
            check(source, library)
            current.append(source)
        except UserError as error:
            failed += 1
            print(f"     FAILED  {error}", file=sys.stderr)

    def done(index: int, run: Run) -> None:
        nonlocal failed
        problems = _problems(run)
        failed += bool(problems)
        _report(current[index], root, run, problems)

    with tempfile.TemporaryDirectory(prefix="rnn2rag-wheel-") as folder:
        package = Path(folder, "package")
        install_wheel(root, package)
        (package / "sitecustomize.py").write_text(_WATCH, encoding="utf8")
        tasks = []
        for number, source in enumerate(current):
            cache = _cache_of(loaded(source, root), Path(folder, f"cache-{number}"))
            environment = {**ONE_THREAD, "PYTHONPATH": str(package), "RNN2RAG_CACHE": str(cache)}
            tasks.append(execute.Task(_load(edition_path(source)), environment=environment, network=False))
        print(f"running {len(tasks)} editions, {jobs} at a time")
        if not execute.offline_command():
            print("not checked: that they need no network; bubblewrap cannot cut it here (see `rnn2rag doctor`)")
        execute.run_all(tasks, jobs, done)
    return failed


def install_wheel(root: Path, folder: Path) -> None:
    """Build the package's wheel from the tree and unpack it into a folder, for PYTHONPATH. Raises UserError."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="rnn2rag-build-") as dist:
        wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, str(root)]
        made = subprocess.run(wheel, capture_output=True, text=True)
        if made.returncode == 0:
            install = [*pip, "install", "--no-deps", "--target", str(folder), *map(str, Path(dist).glob("*.whl"))]
            made = subprocess.run(install, capture_output=True, text=True)
    if made.returncode:
        raise UserError(f"the wheel of {root} cannot be built: {made.stderr.strip().splitlines()[-1]}")


def _cache_of(names: Sequence[str], folder: Path) -> Path:
    """Make a cache that holds these entries alone, as links, with what was made of them (as smollm2-bf16)."""
    folder.mkdir()
    others = set(catalog.names()) - set(names)
    for name in names:
        for place in [catalog.cache_dir() / name, *catalog.cache_dir().glob(f"{name}-*")]:
            if place.exists() and place.name not in others:
                (folder / place.name).symlink_to(place)
    return folder


def _problems(run: Run) -> list[str]:
    problems = [run.error] if run.error else []
    problems += [f"wrote to stderr: {text.strip()[:500]}" for text in run.noise]
    if run.cpu_seconds > 1.5 * BUDGET:
        problems.append(f"took {run.cpu_seconds:.0f} CPU-seconds; the budget is {BUDGET:.0f}")
    return problems


def _report(source: Path, root: Path, run: Run, problems: list[str]) -> None:
    name = source.relative_to(root)
    if problems:
        print(f"     FAILED  {name}", *problems, sep="\n", file=sys.stderr)
        return
    over = f"  (over the budget of {BUDGET:.0f})" if run.cpu_seconds > BUDGET else ""
    print(
        f"{run.cpu_seconds:7.1f} CPU-s  {run.wall_seconds:6.1f} s  {run.peak_memory / 1e6:5.0f} MB  {name}{over}",
        flush=True,
    )


def check(source: Path, library: Library | None = None) -> None:
    """Raise UserError unless the edition is what its source and its own outputs make."""
    edition = edition_path(source)
    stale = needs_run(source)
    if not stale:
        library = library or Library.of(_root_of(source))
        stale = edition.read_text(encoding="utf8") != _recomposed(source, library)
    if stale:
        raise UserError(f"{edition}: does not match {source.name}; run `make notebooks`")


def _recomposed(source: Path, library: Library) -> str:
    edition = _load(edition_path(source))
    return _compose(source, _outputs(edition), edition.metadata["rnn2rag"], library)


def _compose(source: Path, outputs: list[list[Any]], facts: dict[str, Any], library: Library) -> str:
    import nbformat

    notebook = read(source)
    for count, (cell, results) in enumerate(zip(code_cells(notebook), outputs, strict=True), start=1):
        cell.outputs, cell.execution_count = results, count
    notebook.cells.insert(0, _set_up_cell(package_address(library.root), loaded(source, library.root)))
    for cell in notebook.cells:
        if "hide-input" in cell.metadata.get("tags", []):  # folded as on the page: a quiz would tell its answer
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"  # Colab's word for it
    page = Page(source, library, _glued(outputs), _run_box(facts))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = page.plain(cell.source)
    notebook.metadata["rnn2rag"] = facts
    return nbformat.writes(notebook, indent=1).rstrip("\n") + "\n"


def _set_up_cell(address: str, names: Sequence[str]) -> NotebookNode:
    """The cell that an edition begins with: installs the package from an address, fetches entries of the catalog."""
    from nbformat.v4 import new_code_cell

    text = _SET_UP.format(remedy=_INSTALL.format(address=address) if address else _EXPLAIN)
    if names:
        text += f"\nrnn2rag.catalog.ensure({', '.join(map(json.dumps, names))})"
    return new_code_cell(text, id=SET_UP, metadata={"tags": ["hide-input"]})


def _save(source: Path, text: str) -> None:
    edition = edition_path(source)
    size = len(text.encode())
    if size > LARGEST:
        raise UserError(f"{edition}: would have {size:,} bytes, more than {LARGEST:,}; show less in its outputs")
    edition.write_text(text, encoding="utf8")


def _load(edition: Path) -> NotebookNode:
    from rnn2rag import execute

    return execute.read(edition)


def _outputs(notebook: NotebookNode) -> list[list[Any]]:
    """The outputs of each code cell, without what lives in the kernel, or differs from run to run for no reason."""
    outputs = []
    for cell in code_cells(notebook):
        kept: list[Any] = []
        for output in cell.outputs:
            output.get("data", {}).pop(show.WIDGET, None)
            if output.output_type == "execute_result":
                output.execution_count = len(outputs) + 1
            elif output.output_type == "error":  # an intended one: the frames name folders of this run
                output.traceback = [f"{output.ename}: {output.evalue}"]
            elif output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text  # one text may arrive in several pieces
                continue
            kept.append(output)
        outputs.append(kept)
    return outputs


def _glued(outputs: list[list[Any]]) -> dict[str, Any]:
    """The values that cells glued for the prose, by name: numbers and strings as Python values, the rest as text."""
    glued = {}
    for output in (output for results in outputs for output in results):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name:
            text = output.data[f"{GLUE_PREFIX}text/plain"]
            try:
                glued[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                glued[name] = text
    return glued


def _run_box(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    cost = f"{facts['cpu_seconds']:.0f} CPU-seconds, at most {facts['peak_memory'] / 1e6:.0f} MB of memory"
    return f"**This run:** {cost}, {facts['device']}, {versions}."


def _root_of(source: Path) -> Path:
    from rnn2rag import course

    return course.root(source.parent)
