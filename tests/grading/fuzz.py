"""Damaged submissions by the thousand: each must be fit for grading or refused in one clear line.

    python tests/grading/fuzz.py --count 10000 [--seed N] [--kernel 200]

A case is a class that hands in: an honest student beside one whose notebook is damaged (cells, fields, metadata, ids,
sources, outputs; or bytes), or a whole archive that is (names, kinds, sizes, packing; or bytes). Everything comes from
the seed; --only N runs one case again. --kernel N grades N of the fit notebooks and asks for exactly one result each.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import re
import resource
import shutil
import stat
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

from rnn2rag import execute
from rnn2rag.errors import UserError
from rnn2rag.grading import intake

ROOT = Path(__file__).parents[2]
COURSE = Path(__file__).with_name("course")  # a small problem set
SET = "01-recurrent-networks"
NAME = "recurrent-networks.ipynb"
SECONDS = 20.0  # that a case may take
MEMORY = 2 << 30  # bytes that the process may grow to

TEXTS = [
    *("", " ", "\n", "\0", "x" * 5000, "../../evil", "/etc/passwd", "ada", SET, NAME, "timestamp.txt", ".git", ".."),
    *(
        "\u202eevil",
        "\ud800",
        "\ufeff",
        "é",
        "e\u0301",
        "ﬁ",
        "{0}",
        "%s",
        "'; drop table grade; --",
        "=1+1",
        "<script>",
    ),
    *("leaky-cell", "leaky-cell-test", "code", "markdown", "raw", "python3", "nan", "-1", "1e999", "null"),
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        4,
        5,
        2**63,
        10**400,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
    ),
    *([], {}, [[]], [{}], {"": ""}, [None], {"nbgrader": {}}, {"grade_id": []}, ["x"] * 50, {"metadata": []}),
    *TEXTS,
]
TOKENS = [
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\\ud800",
        b"\\u0000",
    ),
    *(b"[" * 200_000, b'{"a":' * 50_000, b"null", b'"cells"', b'"cells": [],', b"}", b"]", b"\r", b"\xc3\x28"),
]
NAMES = [
    *("../evil/{n}", "../../{n}", "/abs/{n}", "\\\\host\\share\\{n}", "..\\..\\{n}", "C:\\eve\\{n}", "./eve/./{n}"),
    *("{s}/{n}", "{s}/{s}/{n}", ".git/{n}", ".git/{s}/{n}", "../{s}/{n}", "eve/{s}/../../{n}", "eve//{s}//{n}"),
    *("eve\n/{n}", "eve\u202e/{n}", "e" * 5000 + "/{n}", "eve/" * 500 + "{n}", "eve/{n}/", "eve/{n}/{n}", "\ufeff/{n}"),
    *(
        "EVE/{n}",
        "Eve/{n}",
        "eve/{n}",
        "eve /{n}",
        "ADA/{n}",
        "-/{n}",
        "@/{n}",
        "con/{n}",
        "eve\0/{n}",
        " /{n}",
        "*/{n}",
    ),
    *("eve_1_assignsubmission_file_/{n}", "eve_1_assignsubmission_file_/{s}/{n}", "_1_assignsubmission_file_/{n}"),
    *("eve_1_assignsubmission_file_/a.7z", "eve_1_assignsubmission_onlinetext/onlinetext.html", "eve_LATE_7_9_{n}"),
    *("eve_7_9_{n}", "eve_7_10_recurrent-networks-1.ipynb", "eve_7_11_data.csv", "eve_7_11_../../evil", "_7_9_{n}"),
    *("01_eve_attempt_2027-02-03-04-05-06_{n}", "01_eve_attempt_9999-99-99-99-99-99_{n}", "eve/{s}/timestamp.txt"),
    *(
        "eve/data.csv",
        "eve/data/a/b/c.csv",
        "eve/torch.py",
        "eve/.bashrc",
        "eve/{s}/nbgrader_config.py",
        "eve/data.csv/x",
    ),
    *("eve/{s}/gradebook.db", ".lms.json", "eve.ipynb", "__MACOSX/eve/{n}", "eve/a.tar.gz", "eve.ipynb/{n}"),
]


class Failure(Exception):
    """What a case must not do."""


def notebooks():
    """Real notebooks to damage: the release, and one that a student ran, with outputs of every kind."""
    released = json.loads((COURSE / "exercises" / SET / NAME).read_text(encoding="utf8"))
    ran = copy.deepcopy(released)
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": {"text/plain": ["4"]}},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"image/png": "iVBORw0KGgo=", "application/json": {"a": [1]}},
        },
        {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["a", "b"]},
    ]
    for cell in ran["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = copy.deepcopy(outputs), 3
        else:
            cell["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    return [released, ran]


def damaged(rng, base):
    """A notebook with one to five things wrong, as bytes."""
    notebook = copy.deepcopy(rng.choice(base))
    for _ in range(rng.choice((1, 1, 2, 4))):
        with contextlib.suppress(IndexError, KeyError, TypeError, AttributeError, ValueError):  # not in this one
            rng.choice(DAMAGES)(rng, notebook)
    data = json.dumps(notebook, ensure_ascii=rng.random() < 0.7).encode(errors="surrogatepass")
    data = re.sub(rb'"@(\d+)@"', lambda deep: b"[" * int(deep[1]) + b"]" * int(deep[1]), data)
    return spoiled(rng, data) if rng.random() < 0.25 else data


def spoiled(rng, data):
    """Bytes with some of them flipped, cut, doubled or overwritten."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((1, 4, 100, 5000)))
        what = rng.randrange(6)
        if what == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del data[at:until]
        elif what == 2:
            data[at:at] = data[at:until]
        elif what == 3:
            data[at:at] = rng.choice(TOKENS)
        elif what == 4:
            del data[at:]
        else:
            data[at:until] = rng.randbytes(until - at)
    return bytes(data)


def value(rng, *others):
    return copy.deepcopy(rng.choice([*others, *VALUES]))


def cells(notebook):
    return notebook["cells"]


def drop_cell(rng, notebook):
    del cells(notebook)[rng.randrange(len(cells(notebook)))]


def copy_cell(rng, notebook):
    cells(notebook).insert(rng.randrange(len(cells(notebook)) + 1), copy.deepcopy(rng.choice(cells(notebook))))


def shuffle_cells(rng, notebook):
    rng.shuffle(cells(notebook))


def many_cells(rng, notebook):
    if len(cells(notebook)) < 100:
        cells(notebook).extend(copy.deepcopy(cells(notebook)) * rng.choice((1, 4, 100)))


def retype_cell(rng, notebook):
    rng.choice(cells(notebook))["cell_type"] = rng.choice(("code", "markdown", "raw", "heading", value(rng)))


def replace_cell(rng, notebook):
    cells(notebook)[rng.randrange(len(cells(notebook)))] = value(rng)


def change_field(rng, notebook):
    """Change, drop or add a field somewhere in the notebook."""
    place = notebook
    for _ in range(rng.randint(0, 6)):
        inside = list(place.values()) if isinstance(place, dict) else place
        inside = [item for item in inside if isinstance(item, (dict, list)) and item]
        if not inside:
            break
        place = rng.choice(inside)
    key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    what = rng.random()
    if what < 0.3:
        del place[key]
    elif what < 0.9:
        place[key] = value(rng)
    elif isinstance(place, dict):
        place[rng.choice(TEXTS)] = value(rng)


def change_grader_data(rng, notebook):
    data = rng.choice([cell["metadata"] for cell in cells(notebook) if "nbgrader" in cell["metadata"]])
    if rng.random() < 0.2:
        data["nbgrader"] = value(rng)
    else:
        field = rng.choice(("grade", "grade_id", "locked", "points", "schema_version", "solution", "task", "cell_type"))
        data["nbgrader"][field] = value(rng)


def change_source(rng, notebook):
    sources = ("import os\nos._exit(1)", "%%bash\nexit 1", "### BEGIN HIDDEN TESTS", "x" * 10**6)
    rng.choice(cells(notebook))["source"] = value(rng, *sources)


def change_outputs(rng, notebook):
    cell = rng.choice([cell for cell in cells(notebook) if "outputs" in cell])
    rng.choice((cell["outputs"].append, lambda value: cell.update(outputs=value)))(value(rng))


def change_id(rng, notebook):
    rng.choice(cells(notebook))["id"] = value(rng, rng.choice(cells(notebook)).get("id"))


def change_kernel(rng, notebook):
    notebook["metadata"][rng.choice(("kernelspec", "language_info"))] = value(
        rng, {"name": "julia", "display_name": "Julia", "language": "julia"}, {"name": []}
    )


def change_format(rng, notebook):
    notebook[rng.choice(("nbformat", "nbformat_minor"))] = value(rng, 0, 2, 3, 4, 5, 99, "4", 4.0)


def nest(rng, notebook):
    place = rng.choice((notebook, rng.choice(cells(notebook))))
    place["metadata"]["deep"] = f"@{rng.choice((5, 50, 300, 900, 2000))}@"  # becomes so many lists in each other


DAMAGES = [
    *(drop_cell, copy_cell, shuffle_cells, retype_cell, replace_cell, change_field, change_field),
    *(change_field, change_grader_data, change_grader_data, change_source, change_outputs, change_id, change_kernel),
    *(change_format, nest, drop_cell, copy_cell, drop_cell, copy_cell, shuffle_cells, change_source, many_cells),
]


def archive(rng, base):
    """A class's zip with odd members, as bytes, and whether the honest student in it must stay fit."""
    data = io.BytesIO()
    honest = json.dumps(base[0]).encode()
    intact = True
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w") as zipped:
        warnings.simplefilter("ignore")  # names that occur twice
        members = [(f"ada/{NAME}", honest, True)]
        for _ in range(rng.choice((1, 2, 3, 4, 8))):
            name = rng.choice(NAMES).format(n=NAME, s=SET)
            members.append((name, damaged(rng, base) if rng.random() < 0.5 else honest, False))
        rng.shuffle(members)
        for name, content, is_honest in members:
            info = zipfile.ZipInfo(name.replace("\ud800", "x")[:60000], (2027, 1, rng.randint(1, 28), 1, 2, 4))
            info.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            if not is_honest:
                intact &= not name.casefold().startswith("ada/")
                odd = (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFREG)
                info.external_attr = (rng.choice(odd) | 0o777) << 16 if rng.random() < 0.2 else 0
                if rng.random() < 0.05:
                    info.compress_type = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
                if rng.random() < 0.05:
                    content = bytes(30_000_000) if rng.random() < 0.5 else b" " * 1_000_000
            with contextlib.suppress(UnicodeEncodeError):
                zipped.writestr(info, content)
    data = bytearray(data.getvalue())
    what = rng.random()
    if what < 0.3:
        return spoiled(rng, data), False
    if what < 0.5:  # lies in the list of members: sizes, checksums, flags, packing, places
        intact = False
        at = data.find(b"PK\x01\x02")
        entries = []
        while at >= 0:
            entries.append(at)
            at = data.find(b"PK\x01\x02", at + 46)
        for _ in range(rng.randint(1, 4)):
            place, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (42, 4)))
            value = rng.choice((0, 1, 2, 0x7F, 0xFFFF, rng.getrandbits(8 * size)))
            struct.pack_into(
                "<H" if size == 2 else "<L", data, rng.choice(entries) + place, value & (2 ** (8 * size) - 1)
            )
    return bytes(data), intact


def case(rng, base, folder):
    """What is handed in, somewhere in a folder; and the students who must be fit."""
    if rng.random() < 0.4:
        data, intact = archive(rng, base)
        path = folder / "class.zip"
        path.write_bytes(data)
        return path, {"ada"} if intact else set()
    data = damaged(rng, base)
    how = rng.choice(("file", "folder", "nbgrader", "Moodle", "Canvas"))
    if how == "file":
        path = folder / "eve.ipynb"
        path.write_bytes(data)
        return path, set()
    honest = json.dumps(base[0]).encode()
    forms = {"folder": "{w}/{n}", "nbgrader": "{w}/{s}/{n}", "Moodle": "{w}_{i}_assignsubmission_file_/{n}"}
    form = forms.get(how, "{w}_{i}_9{i}_{n}")
    members = {
        form.format(w=who, i=i, n=NAME, s=SET): what
        for i, (who, what) in enumerate({"ada": honest, "eve": data}.items())
    }
    if how in ("folder", "nbgrader") and rng.random() < 0.5:
        path = folder / "class"
        for name, content in members.items():
            (path / name).parent.mkdir(parents=True)
            (path / name).write_bytes(content)
        if rng.random() < 0.2:
            (path / "eve" / "data.csv").symlink_to("/etc/passwd")
        return path, {"ada"}
    path = folder / "class.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return path, {"ada"}


def one_line(text):
    if not text or not text.isprintable() or len(text) > 1000 or "Traceback" in text:
        raise Failure(f"no clear line: {text!r}")


def outside(top):
    """Everything in a folder but submitted/: path, size and time of change."""
    skip = top / "tree" / "submitted"
    return {
        (path, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in top.rglob("*")
        if skip not in path.parents and path not in (skip, skip.parent)
    }


def run_case(seed, number, base, top):
    """Run one case in a folder that holds tree/; return its submissions. Raises Failure."""
    rng = random.Random(f"{seed}:{number}")
    handed, tree = top / "handed", top / "tree"
    shutil.rmtree(handed, ignore_errors=True)
    shutil.rmtree(tree / "submitted", ignore_errors=True)
    handed.mkdir()
    path, fit = case(rng, base, handed)
    before, start = outside(top), time.perf_counter()
    try:
        submissions = intake.collect(tree, SET, path)
    except UserError as error:
        one_line(str(error))
        if fit:
            raise Failure(f"the class is refused: {error}") from None
        submissions = []
    if time.perf_counter() - start > SECONDS:
        raise Failure(f"took {time.perf_counter() - start:.1f} s")
    if outside(top) != before:
        raise Failure(f"wrote outside of submitted/: {outside(top) ^ before}")
    found = {submission.student for submission in submissions if not submission.refused}
    if fit - found:
        raise Failure(f"an honest student is not fit: {fit - found}")
    if len({submission.student.casefold() for submission in submissions}) != len(submissions):
        raise Failure("two students differ by capitals alone")
    for submission in submissions:
        one_line(submission.student)
        for line in [*submission.notes, *([submission.refused] if submission.refused else [])]:
            one_line(line)
        if not submission.refused:
            execute.read(submission.path)
            if sum(map(len, submission.files.values())) > intake.LARGEST or len(submission.files) > intake.MOST_FILES:
                raise Failure("carries too much")
    for item in (tree / "submitted").rglob("*"):
        if item.is_symlink() or not (item.is_file() or item.is_dir()):
            raise Failure(f"{item} is no plain file")
    return submissions


def make_tree(folder):
    """A course with a problem set."""
    for part in ("solutions", "exercises"):
        shutil.copytree(COURSE / part / SET, folder / part / SET, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (folder / "chapters" / SET).mkdir(parents=True)
    for name in ("_toc.yml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def grade(tree, submissions):
    """Grade with the real grader."""
    from rnn2rag.grading import coordinator

    return coordinator.grade(tree, SET, submissions, jobs=2)


def fuzz(count, seed=0, kernel=0, first=0, say=lambda line: None):
    """Run cases; return how each ended (a count by outcome), and {case: what went wrong}."""
    base, outcomes, failures = notebooks(), Counter(), {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rnn2rag-fuzz-") as folder:
        top = Path(folder).resolve()
        tree, kept = make_tree(top / "tree"), top / "kept"
        for number in range(first, first + count):
            try:
                submissions = run_case(seed, number, base, top)
            except Failure as failure:
                failures[number] = str(failure)
                continue
            except Exception:
                failures[number] = traceback.format_exc()
                continue
            outcomes["fit" if any(not s.refused for s in submissions if s.student != "ada") else "refused"] += 1
            for submission in submissions:
                if kernel and not submission.refused and submission.student != "ada":
                    kernel -= 1
                    target = kept / f"s{number}-{kernel}" / SET
                    shutil.copytree(submission.path.parent, target)
            if (number - first + 1) % 500 == 0:
                rate = (number - first + 1) / (time.perf_counter() - start)
                say(f"{number - first + 1} cases, {rate:.0f} a second: {dict(outcomes)}, {len(failures)} failures")
        if kept.exists():
            shutil.rmtree(tree / "submitted", ignore_errors=True)
            shutil.move(kept, tree / "submitted")
            submissions = intake.collect(tree, SET, None)
            results = grade(tree, submissions)
            say(f"{len(submissions)} graded: {sum(bool(result.refused) for result in results)} refused by the grader")
            if [result.student for result in results] != [submission.student for submission in submissions]:
                failures[-1] = "not exactly one result for each submission"
            for result in results:
                if result.refused:
                    one_line(result.refused)
    return outcomes, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernel", type=int, default=0, help="how many fit notebooks to grade")
    parser.add_argument("--only", type=int, help="run this case alone")
    options = parser.parse_args()
    if not options.kernel:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    count, first = (options.count, 0) if options.only is None else (1, options.only)
    start = time.perf_counter()
    outcomes, failures = fuzz(count, options.seed, options.kernel, first, print)
    seconds = time.perf_counter() - start
    for number, reason in failures.items():
        print(f"FAILED --seed {options.seed} --only {number}: {reason}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{count} cases in {seconds:.0f} s, {count / seconds:.0f} a second, {peak} MiB at most: "
        f"{outcomes['fit']} fit, {outcomes['refused']} refused, {len(failures)} failed"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
