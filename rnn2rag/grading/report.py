"""The class report: what an instructor wants to know about a graded set, in one HTML file without scripts."""

from __future__ import annotations

import ast
import itertools
import re
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbformat import NotebookNode

from rnn2rag import course, execute
from rnn2rag.grading import feedback
from rnn2rag.grading.results import Result

WINDOW = 8  # tokens of a fragment of code
ALIKE = 0.8  # share of fragments that two near-identical answers have in common
DISTINCTIVE = 12  # fragments, rare in the class, that they have in common at least
RAREST, COMMONEST = 3, 10  # in how many answers a rare fragment may stand, at least and at most
LONGEST_CODE = 50_000  # characters of an answer that is compared
MOST_ROWS = 40  # of a table that has no end by itself

_NUMBER = r"[-+]?\b(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|inf|nan)(?!\w)"
_NUMBERS = re.compile(rf"{_NUMBER}(?:, {_NUMBER})*", re.I)  # a list of them counts as one
_FORBIDDEN = re.compile(r"^(?P<name>\S+) is not allowed in this problem")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def page(tree: Path, name: str, results: Sequence[Result], notebooks: Iterable[tuple[str, NotebookNode]]) -> str:
    """Return the class report of a problem set as HTML.

    notebooks: each student with the graded notebook, read one at a time: of each only the fragments of its answers are
    kept. Raises UserError where the set is not made yet.
    """
    the_set = feedback.problem_set(tree, name)
    graded = [result for result in results if not result.refused]
    titles = {grade_id: problem.title for problem in the_set.problems for grade_id in problem.tests}
    rule = {"window": WINDOW, "share": ALIKE, "distinctive": DISTINCTIVE, "rarest": RAREST, "commonest": COMMONEST}
    said = {
        "refused": [(result.refused.replace(f"{tree}/", ""), result.student) for result in results if result.refused],
        "faults": [
            (f"{cell.grade_id}: {fault}", r.student) for r in graded for cell in r.cells for fault in cell.faults
        ],
        "messages": [(message, result.student) for result in graded for message in result.messages],
        "odd": [(oddity, result.student) for result in graded for oddity in _oddities(result)],
    }
    return (
        feedback.templates()
        .get_template("report.html.j2")
        .render(
            set=the_set,
            results=sorted(results, key=lambda result: result.student.casefold()),
            graded=graded,
            pages={result.student: f"../{quote(result.feedback)}" for result in results if result.feedback},
            waiting=sum(result.manual for result in graded),
            late=[result for result in graded if result.late > 0],
            sandboxes=Counter(result.sandbox or "unknown" for result in graded),
            points=_points(graded),
            problems=_problems(the_set, graded),
            rungs=_rungs(titles, graded),
            time=_time(graded),
            alike=_alike_by_problem(tree, name, the_set, notebooks),
            rule=rule,
            **{key: _grouped(pairs)[:MOST_ROWS] for key, pairs in said.items()},
        )
    )


# Sums over the class


def _grouped(said: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Texts that differ in numbers alone as one, most students first, each with its students."""
    students: dict[str, dict[str, None]] = defaultdict(dict)
    texts: dict[str, set[str]] = defaultdict(set)
    for text, student in said:
        text = " ".join(text.split())[: feedback.LONGEST_MESSAGE]
        kind = _NUMBERS.sub("…", text)
        students[kind][student] = None
        texts[kind].add(text)
    groups = [
        {"text": kind if len(texts[kind]) > 1 else next(iter(texts[kind])), "students": list(students[kind])}
        for kind in students
    ]
    return sorted(groups, key=lambda group: (-len(group["students"]), group["text"]))


def _oddities(result: Result) -> list[str]:
    """What an instructor may want to look into."""
    odd = list(result.notes)
    for cell in result.cells:
        odd += [f"{cell.grade_id}: {cell.note}"] if cell.note else []
        odd += [f"{cell.grade_id}: the test itself failed: {fault}" for fault in cell.faults]
    forbidden = [match["name"] for message in result.messages if (match := _FORBIDDEN.match(message))]
    odd += [f"uses what the problem forbids: {name}" for name in forbidden]
    odd += ["ran without a sandbox"] if result.sandbox == "none" else []
    return odd


def _points(graded: Sequence[Result]) -> dict[str, Any]:
    """Mean, median and the bars of a histogram of points, about a point a bar and at most 20 bars."""
    if not graded:
        return {}
    points = [result.points for result in graded]
    possible = max(*(result.possible for result in graded), *points, 1.0)
    width = next(width for width in itertools.count(1) if possible / width <= 20)
    bars = [0] * (int(possible // width) + 1)
    for value in points:
        bars[int(max(value, 0.0) // width)] += 1
    labels = [f"{low * width}" if width == 1 else f"{low * width}–" for low in range(len(bars))]
    return {
        "mean": statistics.fmean(points),
        "median": statistics.median(points),
        "possible": possible,
        "bars": _bars(bars, labels),
    }


def _time(graded: Sequence[Result]) -> dict[str, Any]:
    """Wall time of the submissions: median, 90th percentile, and the longest with their students."""
    timed = sorted((result for result in graded if result.seconds > 0), key=lambda result: result.seconds)
    if not timed:
        return {}
    seconds = [result.seconds for result in timed]
    return {
        "median": statistics.median(seconds),
        "most": seconds[min(int(0.9 * len(seconds)), len(seconds) - 1)],
        "total": sum(seconds),
        "longest": [(result.student, result.seconds) for result in reversed(timed[-3:])],
        "kept": sum(result.kept for result in graded),
    }


def _bars(counts: Sequence[int], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The bars of a histogram in a drawing 360 wide and 150 high."""
    step, most = 350 / len(counts), max(*counts, 1)
    every = 1 if len(counts) <= 12 else 2 if len(counts) <= 16 else 4
    return [
        {
            "x": 5 + step * index,
            "width": step * 0.82,
            "height": 110 * number / most,
            "count": number,
            "name": labels[index],
            "label": labels[index] if index % every == 0 else "",
        }
        for index, number in enumerate(counts)
    ]


def _problems(the_set: feedback.ProblemSet, graded: Sequence[Result]) -> list[dict[str, Any]]:
    """Each problem with the points of its tests: the mean, and how many got all and none."""
    rows = []
    for problem in the_set.problems:
        possible = sum(the_set.tests[grade_id].possible for grade_id in problem.tests)
        earned = [sum(cell.points for cell in result.cells if cell.grade_id in problem.tests) for result in graded]
        if possible and earned:
            full, none = sum(value >= possible for value in earned), sum(value == 0 for value in earned)
            mean = statistics.fmean(earned)
            rows.append({"title": problem.title, "possible": possible, "mean": mean, "full": full, "none": none})
    return rows


def _rungs(titles: Mapping[str, str], graded: Sequence[Result]) -> list[dict[str, Any]]:
    """The rungs with the share of graded submissions that passed them, hardest first."""
    passed: Counter[tuple[str, str, bool]] = Counter()
    for result in graded:
        for cell in result.cells:
            for rung in cell.rungs:
                earned = rung["points"] == rung["possible"] and not cell.note
                passed[titles.get(cell.grade_id, cell.grade_id), rung["name"], rung["hidden"]] += earned
    rows = [
        {"problem": problem, "name": name, "hidden": hidden, "passed": number, "share": number / len(graded)}
        for (problem, name, hidden), number in passed.items()
    ]
    return sorted(rows, key=lambda row: row["share"])[:MOST_ROWS]


# Near-identical answers


@dataclass(frozen=True)
class Group:
    """Students whose answers to a problem are alike: the least and the greatest likeness of a pair that links them."""

    students: tuple[str, ...]
    least: float
    most: float


def fragments(source: str) -> frozenset[int]:
    """Return the fragments of a piece of code: every run of `WINDOW` tokens, hashed.

    Comments, layout, docstrings and annotations are dropped; names that the code itself binds are numbered anew in each
    fragment, so that renaming changes nothing. What is no Python is taken as it stands, without comments.
    """
    tokens, bound = _tokens(source[:LONGEST_CODE])
    found = set()
    for start in range(len(tokens) - WINDOW + 1):
        names: dict[str, int] = {}
        window = tokens[start : start + WINDOW]
        found.add(hash(tuple(names.setdefault(token, len(names)) if token in bound else token for token in window)))
    return frozenset(found)


def alike(answers: Mapping[str, frozenset[int]], given: frozenset[int] = frozenset()) -> list[Group]:
    """Return the groups of students whose answers are near-identical, most alike first.

    answers: the fragments of each student's code. given: those of the release, which tell nothing. Two answers are
    near-identical when they share `ALIKE` of all their other fragments, and `DISTINCTIVE` of the shared ones are rare:
    found in a quarter of the answers at most, and in no more than `COMMONEST` (a small class: `RAREST`). So a blank or
    short answer, or one that half of the class would write, is never listed.
    """
    own = {student: found - given for student, found in answers.items() if len(found - given) >= DISTINCTIVE}
    spread = Counter(itertools.chain.from_iterable(own.values()))
    rare_until = min(max(len(own) // 4, RAREST), COMMONEST)
    places = {fragment: place for place, fragment in enumerate(f for f, number in spread.items() if number > 1)}

    def mask_of(found: Iterable[int]) -> int:
        """A set of fragments as the bits of a number: two are compared in a microsecond."""
        bits = bytearray(len(places) // 8 + 1)
        for place in (places[fragment] for fragment in found if fragment in places):
            bits[place // 8] |= 1 << place % 8
        return int.from_bytes(bits, "little")

    rare = mask_of(fragment for fragment, number in spread.items() if number <= rare_until)
    entries = sorted((len(found), mask_of(found), student) for student, found in own.items())
    pairs = []
    for index, (size, mask, student) in enumerate(entries):
        for other_size, other_mask, other in entries[index + 1 :]:
            if size < ALIKE * other_size:  # sorted by size: no later one can be alike
                break
            shared = mask & other_mask
            common = shared.bit_count()
            likeness = common / (size + other_size - common)
            if likeness >= ALIKE and (shared & rare).bit_count() >= DISTINCTIVE:
                pairs.append((student, other, likeness))
    return _linked(pairs)


def _linked(pairs: Sequence[tuple[str, str, float]]) -> list[Group]:
    """Pairs joined into groups."""
    group_of: dict[str, set[str]] = {}
    for student, other, _ in pairs:
        joined = group_of.get(student, {student}) | group_of.get(other, {other})
        group_of |= dict.fromkeys(joined, joined)
    likeness = defaultdict(list)
    for student, _, value in pairs:
        likeness[tuple(sorted(group_of[student]))].append(value)
    groups = [Group(students, min(values), max(values)) for students, values in likeness.items()]
    return sorted(groups, key=lambda group: (-group.least, group.students))


def _tokens(source: str) -> tuple[list[str], set[str]]:
    """The tokens of a piece of code in one layout, and the names that it binds."""
    bound = set()
    try:
        with warnings.catch_warnings():  # of escapes in a student's strings
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
                node.annotation = None
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
                bound |= {node.name} if not isinstance(node, ast.Module) else set()
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    node.returns = None
            elif isinstance(node, ast.alias):
                bound |= {node.asname} if node.asname else set()
        return _TOKEN.findall(ast.unparse(tree)), bound
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _TOKEN.findall(re.sub(r"#.*", "", source)), set()


def _alike_by_problem(
    tree: Path, name: str, the_set: feedback.ProblemSet, notebooks: Iterable[tuple[str, NotebookNode]]
) -> list[dict[str, Any]]:
    """The groups of each problem that is answered in code."""
    answers: list[dict[str, frozenset[int]]] = [{} for _ in the_set.problems]
    for student, notebook in notebooks:
        for problem, source in zip(answers, _code(the_set, notebook), strict=True):
            problem[student] = fragments(source)
    given: list[frozenset[int]] = [frozenset() for _ in the_set.problems]
    for path in sorted((tree / "exercises" / name).glob("*.ipynb"))[:1]:
        given = [fragments(source) for source in _code(the_set, execute.read(path))]
    return [
        {"title": problem.title, "groups": groups[:MOST_ROWS], "left": max(len(groups) - MOST_ROWS, 0)}
        for problem, found, blank in zip(the_set.problems, answers, given, strict=True)
        if (groups := alike(found, blank))
    ]


def _code(the_set: feedback.ProblemSet, notebook: NotebookNode) -> list[str]:
    """What a notebook has in the answer cells of each problem, as one piece of code a problem."""
    code = {}
    for cell in notebook.cells:
        grade_id = course.grader_data(cell).get("grade_id")
        if cell.cell_type == "code" and isinstance(grade_id, str):
            code.setdefault(grade_id, cell.source)
    return [
        "\n".join(code[grade_id] for grade_id in problem.answers if grade_id in code) for problem in the_set.problems
    ]
