"""Feedback pages that say what a test found and nothing of what it hides.

`page` writes a student's page; `HideTests` cleans the pages that nbgrader's own `generate_feedback` makes. One rule
holds in both: from the first hidden test cell on, a submission's process may have seen hidden inputs, so nothing that
it made from there on is shown; of hidden tests only descriptions and points that the problem set itself states.
"""

from __future__ import annotations

import ast
import builtins
import functools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import determine_grade, is_grade

from rnn2rag import checks, course, execute
from rnn2rag.errors import UserError
from rnn2rag.grading import split, worker
from rnn2rag.grading.results import Result
from rnn2rag.grading.worker import CellScore

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST_LINE = 300  # characters of a line of code or output
MOST_LINES = 200  # of one problem's code
MOST_PRINTED = 20  # lines of what a test cell printed
LONGEST_TEXT = 10_000  # characters of a free-text answer, and of a person's comment
LONGEST_MESSAGE = 1_000  # characters

JUDGED = "rnn2rag"  # the metadata of a notebook whose tests were judged apart
_MARK, _END = course.MARKS[2:]  # of hidden tests
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_HEADING = re.compile(r"^(#{1,2})\s+(.+?)\s*#*$", re.M)
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]*?chapters/[^)\s]+)\)")
# What would change the look of the text around it: control characters, and the marks that turn its direction.
_INVISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_INVISIBLE |= {0x7F: "␡"} | dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}")
_INVISIBLE |= dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")
_INVISIBLE |= {c: f"⟨U+{c:04X}⟩" for c in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


# The problem set, as its own source tells it


@dataclass(frozen=True)
class Test:
    """A test cell: its points, whether it is hidden, whether it was judged apart (see `split`).

    stated: the public descriptions of its hidden rungs, each with its points.
    """

    possible: float
    hidden: bool
    judged: bool
    stated: Mapping[str, float]


@dataclass
class Problem:
    """One problem: its title, the section that teaches it (title and, where the book is published, address).

    answers: the cells that students fill in, {grade id: points that a person gives}. tests: the grade ids of its test
    cells, hidden ones last.
    """

    title: str
    section: str = ""
    link: str = ""
    answers: dict[str, float] = field(default_factory=dict)
    tests: list[str] = field(default_factory=list)


@dataclass
class ProblemSet:
    """A problem set: its title, its book's title, its problems in order, its test cells by grade id.

    places: where each cell stands, {grade id or source: index of its problem}.
    """

    title: str
    book: str
    problems: list[Problem]
    tests: dict[str, Test]
    places: dict[str, int]


def problem_set(tree: Path, name: str) -> ProblemSet:
    """Return a problem set as its notebook under solutions/ tells it. Raises UserError where it is not made yet."""
    notebooks = sorted(course.set_folder(tree, name).glob("*.ipynb"))
    if not notebooks:
        raise UserError(f"solutions/{name}: its notebook is not made yet; run `make exercises`")
    config = tree / "_config.yml"
    changed = config.stat().st_mtime_ns if config.exists() else 0
    return _problem_set(tree, notebooks[0], notebooks[0].stat().st_mtime_ns, changed)


@functools.lru_cache(maxsize=4)
def _problem_set(tree: Path, path: Path, changed: int, config_changed: int) -> ProblemSet:
    book, address = _book(tree) if config_changed else ("", "")
    problems: list[Problem] = []
    tests: dict[str, Test] = {}
    named: dict[str, int] = {}  # {name of a checks.Problem: index}
    places: dict[str, int] = {}
    title, heading, prose = path.parent.name, "", ""
    is_begun, since_heading = False, []  # whether the heading has its problem; the cells since it
    hidden: list[tuple[str, str]] = []  # (grade id, name of its checks.Problem)
    for cell in execute.read(path).cells:
        data = course.grader_data(cell)
        grade_id = data.get("grade_id", "")
        if cell.cell_type == "markdown" and not grade_id:
            for level, text in _HEADING.findall(_without_code(cell.source)):
                if level == "#":
                    title = _plain(text)
                heading, prose, is_begun, since_heading = _plain(text), "", False, []
            prose += cell.source
        is_hidden = worker.is_test(cell) and _MARK in cell.source
        is_graded = worker.is_test(cell) or data.get("solution") or data.get("task")
        if is_graded and not is_hidden and not is_begun:
            problems.append(Problem(heading or title, *_section(tree, prose, address)))
            is_begun = True
        index = max(len(problems) - 1, 0)
        since_heading += [cell.source, grade_id] if grade_id else [cell.source]
        places |= dict.fromkeys(since_heading, index)
        if worker.is_test(cell):
            parts = split.halves(cell.source)
            stated = _stated(cell.source, hidden=True) if is_hidden else {}
            tests[grade_id] = Test(float(data["points"]), is_hidden, parts is not None, stated)
            if is_hidden:
                hidden.append((grade_id, parts.problem if parts else ""))
            else:
                problems[-1].tests.append(grade_id)
                named |= {parts.problem: index} if parts else {}
        elif is_graded:
            problems[-1].answers[grade_id] = float(data.get("points", 0))
    for grade_id, problem in hidden:
        problems = problems or [Problem(title)]
        problems[named.get(problem, len(problems) - 1)].tests.append(grade_id)
    return ProblemSet(title, book, problems, tests, places)


def _book(tree: Path) -> tuple[str, str]:
    """The book's title and the address where it is published, from its configuration."""
    import yaml

    config = yaml.safe_load((tree / "_config.yml").read_text(encoding="utf8")) or {}
    address = str((config.get("html") or {}).get("baseurl") or "")
    return str(config.get("title") or ""), address if re.match(r"https?://", address) else ""


def _section(tree: Path, prose: str, address: str) -> tuple[str, str]:
    """Title and address of the section that the first link into chapters/ names; nothing where there is none."""
    found = _LINK.search(prose)
    if not found:
        return "", ""
    target, _, anchor = found["target"].partition("#")
    page = target[target.index("chapters/") :].removesuffix(".ipynb").removesuffix(".md").removesuffix(".html")
    source = tree / f"{page}.md"
    title = _HEADING.search(source.read_text(encoding="utf8")) if ".." not in page and source.is_file() else None
    link = f"{address.rstrip('/')}/{page}.html{'#' if anchor else ''}{anchor}" if address else ""
    return _plain(title[2] if title else found["text"]), link


def _without_code(markdown: str) -> str:
    """Markdown without its fenced code: a comment there is no heading."""
    return re.sub(r"^(`{3,}|~{3,}).*?^\1", "", markdown, flags=re.M | re.S)


def _plain(markdown: str) -> str:
    """A line of Markdown without its marks."""
    return re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", markdown).strip()


def _stated(source: str, hidden: bool) -> dict[str, float]:
    """The rungs that a test cell states, each with its points; of a hidden one those with a public description."""
    stated: dict[str, float] = {}
    for node in ast.walk(_parsed(source)):
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            match decorator:
                case ast.Call(ast.Attribute(_, "verdict"), arguments):
                    given = {keyword.arg: keyword.value for keyword in decorator.keywords}
                    description = given.get("hidden") if hidden else ast.Constant(node.name.replace("_", " "))
                    points = given.get("points") or (arguments[1] if len(arguments) > 1 else None)
                    match description, points:
                        case ast.Constant(str(text)), ast.Constant(int() | float() as worth):
                            stated[text] = stated.get(text, 0.0) + worth
    return stated


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


# What a student may see


def first_hidden(cells: Sequence[NotebookNode]) -> int:
    """Return the index of the first hidden test cell in a run notebook; the number of cells where there is none."""
    places = (index for index, cell in enumerate(cells) if worker.is_test(cell) and _MARK in cell.source)
    return next(places, len(cells))


def public_rungs(
    rungs: Sequence[Mapping[str, Any]], stated: Mapping[str, float], words: Collection[str] = ()
) -> list[checks.Rung]:
    """Return rungs in the words and with the points that their test states as public, without what it found.

    words: messages that may be shown all the same. Rungs that are not stated are summed up in one line.
    """
    shown = []
    for text, possible in stated.items():
        found = [rung for rung in rungs if rung["name"] == text]
        passed = bool(found) and all(rung["points"] == rung["possible"] for rung in found)
        message = next((rung["message"] for rung in found if rung["message"] in words), "")
        shown.append(checks.Rung(text, possible, possible if passed else 0.0, message))
    others = [rung for rung in rungs if rung["name"] not in stated]
    if others:
        points, possible = (sum(rung[key] for rung in others) for key in ("points", "possible"))
        shown.append(checks.Rung("more hidden tests", possible, points))
    return shown


def clean(text: str) -> str:
    """Return text without terminal codes, and with every other control or direction mark made visible."""
    return _ANSI.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).translate(_INVISIBLE)


def shorten(text: str, lines: int, width: int) -> tuple[str, str]:
    """Return the beginning of a text, at most so many lines of so many characters, and a note on what is left out."""
    rows = text.split("\n")
    cut = [row if len(row) <= width else row[:width] + "…" for row in rows[:lines]]
    notes = [f"{len(rows) - lines:,} more lines"] if len(rows) > lines else []
    left = sum(max(len(row) - width, 0) for row in rows[:lines])
    notes += [f"{left:,} more characters in long lines"] if left else []
    return clean("\n".join(cut)), " and ".join(notes)


def highlighted(code: str) -> str:
    """Return Python code as HTML, its tokens in spans of Pygments' classes; safe to put into a page as it is."""
    from pygments import highlight

    return highlight(code, *_highlighter())


@functools.cache
def _highlighter() -> tuple[Any, Any]:
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return PythonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True)


@functools.cache
def templates() -> Environment:
    """Return the templates of the pages; whatever is put into them is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"clean": lambda value: clean(str(value)), "points": "{:.4g}".format}
    environment.globals |= {"duration": duration, "count": count}
    return environment


def count(number: float, noun: str) -> str:
    """Return a number with its noun, as "1 point" or "2 points"."""
    return f"{number:g} {noun if number == 1 else noun + 's'}"


def duration(seconds: float) -> str:
    """Return a time in words, as "2 days 3 h" or "12 min"."""
    minutes = max(math.ceil(seconds / 60), 1)
    days, hours, rest = minutes // 1440, minutes % 1440 // 60, minutes % 60
    parts = [count(days, "day")] if days else []
    parts += [f"{hours} h"] if hours else []
    parts += [f"{rest} min"] if rest and not days else []
    return " ".join(parts)


# A student's page


def page(
    tree: Path,
    name: str,
    notebook: NotebookNode | None,
    result: Result,
    reviews: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the HTML page of one student: one file without scripts that loads nothing.

    notebook: the graded notebook with its judged outputs; None where the submission was refused. reviews: what a person
    gave, {grade id: {"score": points or None, "comment": text or None}}. Raises UserError where the set is not made.
    """
    the_set = problem_set(tree, name)
    cells = notebook.cells if notebook and not result.refused else []
    marking = Marking(the_set, cells, result, reviews or {})
    problems = [marking.problem(index) for index in range(len(the_set.problems))] if cells else []
    return (
        templates()
        .get_template("feedback.html.j2")
        .render(
            set=the_set,
            result=result,
            refused=" ".join(result.refused.replace(f"{tree}/", "").split())[:LONGEST_MESSAGE],
            problems=problems,
            stopped=marking.stopped(),
            waiting=result.manual and not result.refused,
        )
    )


class Marking:
    """One student's run beside the problem set: what the page says of each problem, as plain data."""

    def __init__(
        self, the_set: ProblemSet, cells: Sequence[NotebookNode], result: Result, reviews: Mapping[str, Any]
    ) -> None:
        self._set = the_set
        self._cells = cells
        self._reviews = reviews
        self._waits = result.manual
        self._scores = {score.grade_id: score for score in result.cells}
        self._hidden = first_hidden(cells)
        self._code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
        self._at: dict[str, int] = {}
        for index, cell in enumerate(cells):
            self._at.setdefault(_grade_id(cell), index)

    def stopped(self) -> bool:
        """Whether the process ended before the last code cell."""
        return bool(self._code) and self._code[-1].execution_count is None

    def problem(self, index: int) -> dict[str, Any]:
        """Points, tests, answers and comments of one problem."""
        problem = self._set.problems[index]
        tests = [self._test(grade_id) for grade_id in problem.tests if grade_id in self._scores]
        comments = [self._review(grade_id)["comment"] for grade_id in problem.answers]
        given = [self._given(grade_id, possible) for grade_id, possible in problem.answers.items() if possible]
        return {
            "title": problem.title,
            "section": problem.section,
            "link": problem.link,
            "points": sum(part["points"] for part in tests) + sum(part["score"] or 0 for part in given),
            "possible": sum(part["possible"] for part in (*tests, *given)),
            "waits": sum(part["possible"] for part in given if part["score"] is None),
            "tests": tests,
            "given": given,
            "comments": [comment for comment in comments if comment],
            "answers": list(self._answers(index)),
        }

    def _review(self, grade_id: str) -> dict[str, Any]:
        review = self._reviews.get(grade_id) or {}
        comment, left = shorten((review.get("comment") or "").strip(), LONGEST_TEXT, LONGEST_TEXT)
        return {"score": review.get("score"), "comment": comment + (f" ({left})" if left else "")}

    def _given(self, grade_id: str, possible: float) -> dict[str, Any]:
        """What a person gave for an answer, or nbgrader for an untouched one; no score while it waits."""
        score = self._review(grade_id)["score"]
        cell = self._cells[self._at[grade_id]] if grade_id in self._at else None
        if score is not None:
            return {"how": "Read by a person", "score": score, "possible": possible}
        if not self._waits or (cell is not None and is_grade(cell) and determine_grade(cell)[0] is not None):
            return {"how": "Not answered", "score": 0.0, "possible": possible}
        return {"how": "Waits for a person", "score": None, "possible": possible}

    def _test(self, grade_id: str) -> dict[str, Any]:
        """One test cell: its rungs, what is to be said of it, and what the student's code printed there."""
        test, score = self._set.tests[grade_id], self._scores[grade_id]
        index = self._at.get(grade_id)
        cell = None if index is None else self._cells[index]
        is_open = cell is not None and index < self._hidden
        if test.hidden:
            rungs = public_rungs(score.rungs, test.stated) if test.judged and score.rungs else []
            shown = [{**asdict(rung), "cut": ""} for rung in rungs]
        else:
            shown = [self._rung(rung, is_open and cell.execution_count is not None) for rung in score.rungs]
        given = self._review(grade_id)["score"]
        says = _in_words(score, cell, is_open and not test.hidden)
        if not test.hidden and not is_open and cell is not None and any(rung["message"] for rung in score.rungs):
            says.append("What it said is left out, for it stands below hidden tests: put the cells back in order.")
        if given is not None and given != score.points:
            says.append(f"A person changed the points of this test from {score.points:.4g} to {given:.4g}.")
        printed, left = shorten(_printed(cell), MOST_PRINTED, LONGEST_LINE) if is_open else ("", "")
        return {
            "hidden": test.hidden,
            "points": score.points if given is None else given,
            "possible": test.possible,
            "rungs": shown,
            "says": says,
            "printed": printed,
            "printed_left": left,
        }

    def _rung(self, rung: Mapping[str, Any], is_open: bool) -> dict[str, Any]:
        message = rung["message"] if is_open and rung["points"] != rung["possible"] else ""
        message, left = shorten(message[:LONGEST_MESSAGE], MOST_PRINTED, LONGEST_MESSAGE)
        return {**rung, "name": rung["name"][:LONGEST_LINE], "message": message, "cut": left}

    def _answers(self, problem: int) -> Iterator[dict[str, Any]]:
        """The student's own cells of a problem: the answers, and code in cells that the set does not have."""
        answers, left_for_others, here = self._set.problems[problem].answers, MOST_LINES, 0
        for index, cell in enumerate(self._cells):
            known = _grade_id(cell) or cell.source
            here = self._set.places.get(known, here)
            is_answer = known in answers and course.grader_data(cell).get("solution")
            is_other = cell.cell_type == "code" and known not in self._set.places and _MARK not in cell.source
            if here != problem or not cell.source.strip() or not (is_answer or (is_other and left_for_others > 0)):
                continue
            if cell.cell_type != "code":
                text, left = shorten(cell.source[:LONGEST_TEXT], MOST_LINES, LONGEST_TEXT)
                yield {"text": text, "left": "the rest" if len(cell.source) > LONGEST_TEXT else left, "says": ""}
                continue
            code, left = shorten(cell.source, MOST_LINES if is_answer else left_for_others, LONGEST_LINE)
            left_for_others -= 0 if is_answer else code.count("\n") + 1
            yield {"code": highlighted(code), "left": left, "says": self._stop(cell) if index < self._hidden else ""}

    def _stop(self, cell: NotebookNode) -> str:
        """What stopped a student's own cell, in words; nothing where it ran to its end."""
        if cell.execution_count is None:
            return "This cell did not run to its end."
        ran = [other for other in self._code if other.execution_count is not None]
        if self.stopped() and cell is ran[-1]:
            return "The process ended while this cell ran."
        for output in cell.outputs:
            if output.output_type == "error":
                return _error_in_words("This cell", output.ename, output.evalue)
        return ""


def _grade_id(cell: NotebookNode) -> str:
    grade_id = course.grader_data(cell).get("grade_id")
    return grade_id if isinstance(grade_id, str) else ""


def _in_words(score: CellScore, cell: NotebookNode | None, is_open: bool) -> list[str]:
    """What is to be said of a test beside its rungs; of a hidden one in fixed words alone."""
    says = ["The test itself has a fault, which is not yours: your instructor has been told."] if score.faults else []
    if cell is None or cell.execution_count is None:
        return [*says, "This test did not run to its end: the notebook's process ended before that."]
    if not score.note:
        return says
    error = next((output for output in cell.outputs if output.output_type == "error"), None)
    if error is not None and error.ename == "KeyboardInterrupt":
        return [*says, _error_in_words("This test", error.ename, "")]
    if error is not None:
        words = (
            _error_in_words("This test", error.ename, error.evalue) if is_open else "This test stopped with an error."
        )
        return [*says, words]
    if is_open:
        note = shorten(score.note, 1, LONGEST_LINE)[0]
        return [*says, f"It earns nothing: {note}."]
    return [*says, "It earns nothing: something else than its score came out of it."]


def _error_in_words(what: str, name: str, message: str) -> str:
    if name == "KeyboardInterrupt":
        return f"{what} was stopped: it took longer than a cell may take."
    text = shorten(f"{name}: {message}" if message else name, 1, LONGEST_LINE)[0]
    return f"{what} stopped with {text}"


def _printed(cell: NotebookNode) -> str:
    texts = (output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")
    return "".join(texts).strip("\n")


# nbgrader's own pages


class HideTests(NbGraderPreprocessor):
    """A preprocessor for nbgrader's GenerateFeedback: takes out hidden tests, and whatever could quote them.

    From the first hidden test cell on only reports and points are left, of hidden tests in the words that the test
    states as public; an error there shows no more than a built-in kind. Before it, pictures and results of cells that
    are no tests are left out as well: a later cell can replace them by their display id. So it can a visible test's
    report: where `rnn2rag grade` did not judge it, it is shown in the words that the test itself has, and no others.
    """

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Clear a whole notebook."""
        first = first_hidden(nb.cells)
        for index, cell in enumerate(nb.cells if first < len(nb.cells) else ()):
            is_open = index < first
            if worker.is_test(cell):
                cell.outputs = _cleared(cell, is_open, is_judged=JUDGED in nb.metadata)
                cell.source = _without_hidden(cell.source)
            elif cell.cell_type == "code":
                cell.outputs = [
                    output for output in cell.outputs if is_open and output.output_type in ("stream", "error")
                ]
        nb.metadata.pop("widgets", None)
        nb.metadata.pop("celltoolbar", None)
        return nb, resources


def _plain_outputs(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs that no later cell can replace."""
    return [output for output in cell.outputs if output.output_type in ("stream", "error")]


def _cleared(cell: NotebookNode, is_open: bool, is_judged: bool) -> list[NotebookNode]:
    """The outputs of a test cell as a student may see them."""
    score, is_hidden = worker.score(cell), _MARK in cell.source
    outputs = _plain_outputs(cell) if is_open else []
    for output in cell.outputs if not is_open else ():
        if output.output_type == "error":
            name = output.ename if hasattr(builtins, output.ename) else "error"
            where = "a hidden test" if is_hidden else "a test below hidden ones"
            outputs.append(new_output("error", ename=name, evalue="", traceback=[f"{name} in {where}"]))
    if is_hidden or not is_judged:
        stated = _stated(cell.source, is_hidden)
        words = _words(cell.source) if is_open else ()
        rungs = public_rungs([rung for rung in score.rungs if rung["name"] in stated], stated, words)
    else:
        rungs = [checks.Rung(**(rung if is_open else {**rung, "message": ""})) for rung in score.rungs]
    if rungs and score.rungs:
        report = str(checks.Score(score.grade_id, 0, rungs))
        outputs.append(new_output("display_data", data={"text/plain": report}))
    if any(output.output_type == "execute_result" for output in cell.outputs):
        points = {"text/plain": f"{score.points:.4g}"}
        outputs.append(new_output("execute_result", data=points, execution_count=cell.execution_count))
    return outputs


def _words(source: str) -> set[str]:
    """The strings that a test cell holds: its messages for known mistakes are among them."""
    constants = (node.value for node in ast.walk(_parsed(source)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def _without_hidden(source: str) -> str:
    """The source without its hidden regions; one without an end reaches to the end of the cell."""
    shown, is_inside = [], False
    for line in source.split("\n"):
        if _MARK in line:
            is_inside = True
        elif _END in line:
            is_inside = False
        elif not is_inside:
            shown.append(line)
    return "\n".join(shown)
