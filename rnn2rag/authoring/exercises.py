"""Problem sets: solutions/NN-name/NAME.md, which authors edit, makes exercises/NN-name/NAME.ipynb for students.

nbgrader makes the release: it takes out what stands between the marks for solutions and hidden tests. A set that also
stands in the private folder (see `course`) is released from there; each of its sources gets its own notebook.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rnn2rag import course
from rnn2rag.authoring import editions
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

HIDDEN = "### BEGIN HIDDEN TESTS"
SECTION = re.compile(r"\]\(\.\./\.\./(?P<section>chapters/[\w./-]+)\.ipynb(?:#[^)\s]*)?\)")
RUBRIC = "**Rubric**"  # a line of its own; under it an item for each thing that earns points, "- 1 point: ..."
_EARNS = re.compile(r"^- (?P<points>\d+(?:\.\d+)?) points?: ", re.M)


def write(root: Path) -> list[Path]:
    """Write each set's notebook and release that changed; remove a release whose set is gone. Returns what changed."""
    wanted = _wanted(root)
    changed = _stale(wanted)
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[path])
    for path in _left_over(root, wanted):
        path.unlink()
        changed.append(path)
    return changed


def check(root: Path) -> None:
    """Raise UserError unless every set's notebook and release are byte for byte what the sources make."""
    wanted = _wanted(root)
    for path in _stale(wanted):
        raise UserError(f"{course.shown(root, path)}: does not match its source; run `make exercises`")
    for path in _left_over(root, wanted):
        raise UserError(f"{course.shown(root, path)}: has no source under solutions/; remove it")


def _wanted(root: Path) -> dict[Path, bytes]:
    """Every generated file beside the sources and in exercises/ with what it has to hold."""
    wanted = {}
    with tempfile.TemporaryDirectory(prefix="rnn2rag-exercises-") as folder:
        for name in course.set_names(root):
            home = course.set_folder(root, name)
            for public in sorted((root / "solutions" / name).glob("*.md")):
                wanted[public.with_suffix(".ipynb")] = _notebook(root, public).encode()
            notebooks = {source.with_suffix(".ipynb").name: _notebook(root, source) for source in home.glob("*.md")}
            course.release(root, name, notebooks, Path(folder), f"sqlite:///{folder}/gradebook.db")
            for file_name, text in sorted(notebooks.items()):
                released = (Path(folder) / name / file_name).read_bytes().rstrip(b"\n") + b"\n"
                _refuse_leaks(f"exercises/{name}/{file_name}", released)
                wanted[home / file_name] = text.encode()
                wanted[root / "exercises" / name / file_name] = released
    return wanted


def _notebook(root: Path, source: Path) -> str:
    """The notebook of a set's text source, with solutions and hidden tests, as text."""
    import nbformat

    _refuse_half_marks(root, source)
    notebook = editions.read(source)
    for amiss in (_order(notebook), _sections(root, notebook), _rubrics(notebook)):
        for what in amiss:
            raise UserError(f"{course.shown(root, source)}: {what}")
    return nbformat.writes(notebook, indent=1).rstrip("\n") + "\n"


def _order(notebook: NotebookNode) -> Iterator[str]:
    """What a student sees of a run ends where the hidden tests begin, so nothing to be seen may follow them."""
    hidden = ""
    for cell in notebook.cells:
        data = course.grader_data(cell)
        if HIDDEN in cell.source:
            hidden = hidden or data.get("grade_id", "(no grade id)")
        elif hidden and (data.get("grade") or data.get("solution")):
            yield f"the cell {data['grade_id']!r} stands after the hidden tests {hidden!r}; hidden tests come last"


def _sections(root: Path, notebook: NotebookNode) -> Iterator[str]:
    """Every problem, that is every part under a heading `##` with a cell to fill in, links what teaches it."""
    prose, asked = "", False
    for cell in notebook.cells:
        data = course.grader_data(cell)
        if data.get("solution") and not asked:
            asked, problem = True, f"the problem of the cell {data['grade_id']!r}"
            found = [match["section"] for match in SECTION.finditer(prose)]
            if not found:
                yield f"{problem} links no section that teaches it, in the form ../../chapters/NN-name/NAME.ipynb"
            for section in found:
                if not (root / f"{section}.md").is_file():
                    yield f"{problem} links {section}.ipynb; there is no such section"
        elif cell.cell_type == "markdown" and not data:
            if re.search(r"^## ", cell.source, re.M):
                prose, asked = "", False
            prose += cell.source


def _rubrics(notebook: NotebookNode) -> Iterator[str]:
    """Above an answer that a person grades stands what earns its points."""
    above = ""
    for cell in notebook.cells:
        data = course.grader_data(cell)
        if data.get("grade") and data.get("solution"):
            earned = [float(item["points"]) for item in _EARNS.finditer(above.partition(RUBRIC)[2])]
            if sum(earned) != data["points"]:
                gives = f"gives {sum(earned):g} of {data['points']:g} points"
                form = f"{RUBRIC} and under it a list of items as `- 1 point: ...`"
                yield f"the rubric above the cell {data['grade_id']!r} {gives}; end the question with {form}"
        above = cell.source if cell.cell_type == "markdown" else ""


def _refuse_half_marks(root: Path, source: Path) -> None:
    """Raise UserError where a solution or a hidden test has a beginning and no end, or an end and no beginning."""
    text = source.read_text(encoding="utf8")
    for kind in ("SOLUTION", "HIDDEN TESTS"):
        begins, ends = text.count(f"### BEGIN {kind}"), text.count(f"### END {kind}")
        if begins != ends:
            raise UserError(
                f"{course.shown(root, source)}: marks the beginning of {begins} {kind.lower()}, and the end of {ends}"
            )


def _refuse_leaks(name: str, data: bytes) -> None:
    for mark in course.MARKS:
        if mark.encode() in data:
            raise UserError(f"{name}: the release still holds {mark!r}; close the mark in the source")


def _stale(wanted: dict[Path, bytes]) -> list[Path]:
    return [path for path, data in wanted.items() if not path.exists() or path.read_bytes() != data]


def _left_over(root: Path, wanted: dict[Path, bytes]) -> list[Path]:
    """Generated notebooks whose source is gone, and whatever other files stand in exercises/."""
    homes = {course.set_folder(root, name) for name in course.set_names(root)}
    found = {*(root / "solutions").glob("*/*.ipynb"), *(root / "exercises").glob("*/*")}
    found |= {path for home in homes for path in home.glob("*.ipynb")}
    return [path for path in sorted(found) if path.is_file() and path not in wanted]
