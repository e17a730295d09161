"""Submissions in, grades out: what learning management systems give and take, bad files, late ones, and fuzz."""

import csv
import json
import os
import re
import stat
import struct
import subprocess
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
from conftest import COURSE, SET, copy_set, graded_cell, load, make_tree, one_line, rnn2rag
from grading import fuzz

from rnn2rag import course
from rnn2rag.errors import UserError
from rnn2rag.grading import exports, intake
from rnn2rag.grading.results import Result
from rnn2rag.grading.worker import CellScore

NAME = "recurrent-networks.ipynb"
RELEASED = load(COURSE / "exercises" / SET / NAME)


@pytest.fixture
def tree(tmp_path):
    tree = make_tree(tmp_path / "course")
    copy_set(tree)
    other = tree / "solutions" / "02-attention"
    other.mkdir()
    (other / "attention.md").touch()
    return tree


def titled(title):
    """The released notebook with another title."""
    return json.dumps({**RELEASED, "cells": [{**RELEASED["cells"][0], "source": title}, *RELEASED["cells"][1:]]})


def content(name, what):
    """What a file of this name holds: a notebook of a title, or the text itself."""
    return titled(what) if name.endswith(".ipynb") and isinstance(what, str) else what


def put(folder, files):
    for name, what in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = content(name, what)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def zipped(path, files, day=1):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, what in files.items() if isinstance(files, dict) else files:
            archive.writestr(zipfile.ZipInfo(name, (2027, 1, day, 0, 0, 0)), content(name, what))
    return path


def collected(tree, submitted):
    """The students and what stands in the title of what they handed in; what is refused, with the reason."""
    found = {}
    for submission in intake.collect(tree, SET, submitted):
        assert submission.path == tree / "submitted" / submission.student / SET / NAME
        assert all("\n" not in line for line in (submission.refused, *submission.notes))
        found[submission.student] = submission.refused or load(submission.path)["cells"][0]["source"]
    return found


def one(tree, submitted, student="ada"):
    return {submission.student: submission for submission in intake.collect(tree, SET, submitted)}[student]


# Forms

FOLDERS = {
    "nbgrader": {
        f"ada/{SET}/{NAME}": "a",
        f"ada/{SET}/scratch.ipynb": "no",
        f"ada/{SET}/Untitled.ipynb": "no",
        f"ada/{SET}/.ipynb_checkpoints/{NAME}": "no",
        f"ben/{SET}/{NAME}": "b",
        "ada/02-attention/attention.ipynb": "no",
        "zoe/02-attention/attention.ipynb": "no",
    },
    "a folder a student": {f"ada/{NAME}": "a", "ben/solved (1).ipynb": "b", "ben/notes.txt": "no"},
    "a notebook a student": {"ada.ipynb": "a", "ben.ipynb": "b", NAME: "no", ".hidden.ipynb": "no"},
    "in a folder of the set's name": {f"{SET}/ada/{NAME}": "a", f"{SET}/ben/{NAME}": "b", f"{SET}/{NAME}": "no"},
    "in a folder of the class": {f"class of 2027/ada/{NAME}": "a", f"class of 2027/ben/{SET}/{NAME}": "b"},
}
MOODLE = "{}_{}_assignsubmission_file_"
BLACKBOARD = "hw1_{}_attempt_2027-01-0{}-20-30-10_{}"
ZIPS = {
    "Moodle": {
        f"{MOODLE.format('ada', 101)}/{NAME}": "a",
        f"{MOODLE.format('ada', 101)}/old/{NAME}": "no",
        f"{MOODLE.format('ben', 102)}/my {NAME}": "b",
    },
    "Moodle in a folder of the set's name": {
        f"{SET}/{MOODLE.format('ada', 101)}/{NAME}": "a",
        f"{SET}/{MOODLE.format('ben', 102)}/{NAME}": "b",
    },
    "Moodle without folders": {f"{MOODLE.format('ada', 101)}{NAME}": "a", f"{MOODLE.format('ben', 102)}{NAME}": "b"},
    "Canvas": {
        f"ada_71_9001_{NAME}": "no",
        "ada_71_9003_recurrent-networks-2.ipynb": "a",
        "ada_71_9002_recurrent-networks-1.ipynb": "no",
        f"ben_LATE_72_9004_{NAME}": "b",
        f"__MACOSX/._ben_LATE_72_9004_{NAME}": "no",
    },
    "Canvas in a folder": {f"submissions/ada_71_9001_{NAME}": "a", f"submissions/ben_72_9004_{NAME}": "b"},
    "Blackboard": {
        BLACKBOARD.format("ada", 2, NAME): "no",
        BLACKBOARD.format("ada", 3, "other.ipynb"): "a",
        BLACKBOARD.format("ben", 1, NAME): "b",
        "hw1_ben_attempt_2027-01-01-20-30-10.txt": "no",
    },
    "packed on Windows": {f"class\\ada\\{NAME}": "a", f"class\\ben\\{NAME}": "b"},
}


@pytest.mark.parametrize("files", [*FOLDERS.values(), *ZIPS.values()], ids=[*FOLDERS, *ZIPS])
def test_submissions_come_as_a_zip(tree, tmp_path, files):
    assert collected(tree, zipped(tmp_path / "all.zip", files)) == {"ada": "a", "ben": "b"}
    assert collected(tree, None) == {"ada": "a", "ben": "b"}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_submissions_come_as_a_folder(tree, tmp_path, files):
    assert collected(tree, put(tmp_path / "all", files)) == {"ada": "a", "ben": "b"}
    assert not (tmp_path / "submitted").exists()


def test_a_single_notebook_and_what_is_there_already(tree, tmp_path):
    put(tree / "submitted", {f"ben/{SET}/{NAME}": "b"})
    assert collected(tree, put(tmp_path, {"ada.ipynb": "a"}) / "ada.ipynb") == {"ada": "a", "ben": "b"}
    assert collected(tree, put(tmp_path, {"ada.ipynb": "again"}) / "ada.ipynb") == {"ada": "again", "ben": "b"}
    assert collected(tree, None) == {"ada": "again", "ben": "b"}
    assert collected(tree, tree / "submitted") == {"ada": "again", "ben": "b"}


def test_the_latest_of_a_zip_counts_and_the_others_are_noted(tree, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, title, day in (("ada/new.ipynb", "new", 9), ("ada/old.ipynb", "old", 2)):
            archive.writestr(zipfile.ZipInfo(name, (2027, 1, day, 0, 0, 0)), titled(title))
    assert collected(tree, tmp_path / "all.zip") == {"ada": "new"}
    assert one(tree, tmp_path / "all.zip").notes == ["other notebooks are left out: old.ipynb"]


def test_what_canvas_and_blackboard_say_of_time_is_noted(tree, tmp_path):
    ben = one(tree, zipped(tmp_path / "all.zip", ZIPS["Canvas"]), "ben")
    assert ben.notes == ["Canvas marks it as late, and does not tell by how much"] and ben.timestamp is None
    ada = one(tree, zipped(tmp_path / "all.zip", ZIPS["Blackboard"]), "ada")
    assert ada.notes == ["earlier attempts are left out"] and ada.timestamp == datetime(2027, 1, 3, 20, 30, 10)


# Names


def test_two_students_of_one_name_both_count(tree, tmp_path):
    names = [MOODLE.format("Ada Lovelace", 101), MOODLE.format("Ada Lovelace", 102), MOODLE.format("Zoë Ü", 103)]
    files = {f"{name}/{NAME}": str(number) for number, name in enumerate(names)}
    found = {"Ada-Lovelace-101": "0", "Ada-Lovelace-102": "1", "Zoë-Ü": "2"}
    assert collected(tree, zipped(tmp_path / "all.zip", files)) == found
    again = {f"{names[1]}/{NAME}": "again"}  # the number still says who it is
    assert collected(tree, zipped(tmp_path / "all.zip", again)) == {**found, "Ada-Lovelace-102": "again"}
    third = {f"{MOODLE.format('Zoë Ü', 104)}/{NAME}": "3"}
    assert collected(tree, zipped(tmp_path / "all.zip", third)).keys() == {*found, "Zoë-Ü-104"}


def test_names_that_would_be_one_folder_are_kept_apart(tree, tmp_path):
    folders = ["ada", "Ada", "ADA ", "e\u0301ve", "\u00e9ve", "a" * 5000, "a" * 4999, "ben\u202e", "ben\n"]
    found = collected(tree, zipped(tmp_path / "all.zip", {f"{name}/{NAME}": str(i) for i, name in enumerate(folders)}))
    assert sorted(found.values()) == ["0", "1", "2", "4", "5", "6", "7", "8"]  # the two spellings of éve are one name
    assert len({student.casefold() for student in found}) == len(found)
    assert all(re.fullmatch(r"[\w-]{3,100}", student) for student in found)
    assert collected(tree, tmp_path / "all.zip") == found


def test_the_numbers_of_a_system_are_kept(tree, tmp_path):
    intake.collect(tree, SET, zipped(tmp_path / "a.zip", ZIPS["Moodle"]))
    intake.collect(tree, SET, zipped(tmp_path / "b.zip", {f"cleo_73_9001_{NAME}": "c", f"dora/{NAME}": "d"}))
    expected = {"ada": ("moodle", "101"), "ben": ("moodle", "102"), "cleo": ("canvas", "73")}
    assert intake.numbers(tree, SET) == expected and intake.numbers(tree, "02-attention") == {}
    (tree / "submitted" / intake.NUMBERS).write_text("[]", encoding="utf8")
    with pytest.raises(UserError, match="lms.json: is damaged; delete it"):
        intake.collect(tree, SET, tmp_path / "a.zip")


def test_folders_that_nbgrader_cannot_take_are_refused(tree):
    for student in ("a*", "b[c]", "d\ne", "-f", "{0}", "fine"):
        put(tree / "submitted", {f"{student}/{SET}/{NAME}": "x"})
    found = collected(tree, None)
    assert found.pop("fine") == "x"
    assert set(found.values()) == {"its folder's name has characters that nbgrader cannot take; rename it"}


# Time


def test_the_time_of_hand_in_is_nbgraders(tree, tmp_path):
    stamp = f"ada/{SET}/timestamp.txt"
    first = {f"ada/{SET}/{NAME}": "a", stamp: "2027-03-01 22:00:00 UTC"}
    assert one(tree, zipped(tmp_path / "a.zip", first)).timestamp == datetime(2027, 3, 1, 22)
    later = {f"ada/{SET}/{NAME}": "later", stamp: "2027-03-02 22:00:00.5 Europe/Berlin"}
    assert one(tree, put(tmp_path / "b", later)).timestamp == datetime(2027, 3, 2, 21, 0, 0, 500000)
    assert (
        one(tree, tmp_path / "a.zip").notes[0].startswith("what was handed in at 2027-03-01 22:00:00 UTC is left out")
    )
    assert collected(tree, None) == {"ada": "later"}
    # A submission whose time nobody tells takes the place of one with a time, and of its time.
    untold = zipped(tmp_path / "c.zip", {f"{MOODLE.format('ada', 101)}/{NAME}": "untold"}, day=9)
    assert one(tree, untold).timestamp is None and not (tree / "submitted" / stamp).exists()
    (tree / "submitted" / stamp).write_text("2027-03-03 22:00:00 UTC", encoding="utf8")
    assert one(tree, untold).timestamp == datetime(2027, 3, 3, 22), "the same submission keeps the time written by hand"


def test_no_student_tells_the_time(tree, tmp_path):
    mine = {
        f"{MOODLE.format('ada', 101)}/{name}": what for name, what in ((NAME, "a"), ("timestamp.txt", "2020-01-01"))
    }
    ada = one(tree, zipped(tmp_path / "a.zip", mine))
    assert (ada.timestamp, ada.carried) == (None, [])
    ben = one(tree, put(tmp_path / "b", {f"ben/{NAME}": "b", "ben/timestamp.txt": "2020-01-01 00:00:00 UTC"}), "ben")
    assert (ben.timestamp, ben.carried) == (None, [])


@pytest.mark.parametrize("text", ["soon", "2027-13-01 00:00 UTC", "0001-01-01 00:00:00 Asia/Tokyo", "\0", "9" * 5000])
def test_a_time_that_cannot_be_read(tree, tmp_path, text):
    files = {f"ada/{SET}/{NAME}": "a", f"ada/{SET}/timestamp.txt": text}
    assert one(tree, zipped(tmp_path / "a.zip", files)).notes[0].startswith("the time of its hand-in cannot be read: ")
    put(tree / "submitted", files)
    assert collected(tree, None) == {"ada": "timestamp.txt holds no time; write it as 2027-03-01 22:59:00 UTC"}


# Files beside the notebook


def test_files_are_carried(tree, tmp_path):
    folder = MOODLE.format("ada", 101)
    beside = {"data.csv": b"1,2", "more/my data (1).csv": b"3", "helper.py": b"x = 1"}
    odd = {
        ".bashrc": b"",
        NAME.upper(): b"",
        "misconceptions.py": b"answers",
        "a\nb.csv": b"",
        "a/../../b": b"",
        "DATA.csv": b"",
    }
    files = {f"{folder}/{name}": what for name, what in {NAME: "a", **beside, **odd}.items()}
    ada = one(tree, zipped(tmp_path / "a.zip", files))
    assert ada.files == beside and ada.refused == ""
    assert ada.notes == ["files are left out: DATA.csv, a?b.csv"]
    canvas = {f"ben_72_9001_{NAME}": "b", "ben_72_9002_data.csv": b"5"}
    assert one(tree, zipped(tmp_path / "b.zip", canvas), "ben").files == {"data.csv": b"5"}
    plain = {f"cleo/{NAME}": "c", "cleo/results_2027_01_all.csv": b"6"}
    assert one(tree, zipped(tmp_path / "c.zip", plain), "cleo").files == {"results_2027_01_all.csv": b"6"}
    fewer = {f"{folder}/{NAME}": "a", f"{folder}/data.csv": b"1,2"}
    assert one(tree, zipped(tmp_path / "a.zip", fewer)).files == {"data.csv": b"1,2"}


def test_too_many_or_too_large_files_are_refused(tree, tmp_path):
    many = {f"ada/{SET}/{n}.csv": b"" for n in range(65)}
    large = {f"ben/{SET}/{n}.csv": bytes(7_000_000) for n in range(3)}
    files = {f"ada/{SET}/{NAME}": "a", f"ben/{SET}/{NAME}": "b", f"cleo/{SET}/{NAME}": "c", **many, **large}
    found = collected(tree, zipped(tmp_path / "a.zip", files))
    assert found == {
        "ada": "has 65 files beside the notebook; at most 64 are taken",
        "ben": "has more than 20 MB of files beside the notebook",
        "cleo": "c",
    }
    put(tree / "submitted", files)
    found = collected(tree, None)
    assert found["ada"] == "has more than 64 files beside the notebook"
    assert found["ben"] == "has more than 20 MB of files beside the notebook"


def test_who_hands_in_no_notebook_is_not_forgotten(tree, tmp_path):
    files = {"ada_71_9001_homework.tar.gz": b"x", f"{MOODLE.format('ben', 102)}/all.7z": b"x", f"cleo/{NAME}": "c"}
    files["Dora_103_assignsubmission_onlinetext/onlinetext.html"] = b"my answer"
    assert collected(tree, zipped(tmp_path / "a.zip", files)) == {
        "Dora": f"has no {NAME}, but onlinetext.html",
        "ada": f"has no {NAME}, but homework.tar.gz",
        "ben": f"has no {NAME}, but all.7z",
        "cleo": "c",
    }


# Bad files


def test_nothing_is_written_outside_of_submitted(tree, tmp_path):
    files = {
        f"../../{NAME}": "no",
        f"../evil/{NAME}": "no",
        "..\\..\\evil.ipynb": "no",
        f".git/{NAME}": "no",
        f"/etc/cron.d/{NAME}": "c",
        f"a b/{NAME}": "s",
        f"$HOME;rm -rf/{NAME}": "h",
    }
    before = {path for path in tmp_path.rglob("*") if tree / "submitted" not in path.parents}
    found = collected(tree, zipped(tmp_path.parent / f"{tmp_path.name}.zip", files))
    assert found == {"cron.d": "c", "a-b": "s", "HOME-rm--rf": "h"}
    after = {path for path in tmp_path.rglob("*") if tree / "submitted" not in path.parents}
    assert after - before == {tree / "submitted"}


def test_links_are_not_followed(tree, tmp_path):
    secret = put(tmp_path / "secret", {f"eve/{NAME}": "secret"})
    folder = put(tmp_path / "all", {f"ada/{NAME}": "a", f"gus/{NAME}": "g"})
    (folder / "eve").mkdir()
    (folder / "eve" / NAME).symlink_to(secret / "eve" / NAME)
    (folder / "fred").symlink_to(secret / "eve", target_is_directory=True)
    (folder / "gus" / "data.csv").symlink_to("/etc/passwd")
    os.mkfifo(folder / "gus" / "pipe")
    found = collected(tree, folder)
    assert found == {"ada": "a", "eve": f"eve/{NAME} is a link; hand in the plain file", "gus": "g"}
    assert one(tree, folder, "gus").notes == ["files are left out: data.csv, pipe"]
    standing = tree / "submitted"
    (standing / "eve" / SET / NAME).unlink()
    (standing / "eve" / SET / NAME).symlink_to(secret / "eve" / NAME)
    (standing / "gus" / SET / "data.csv").symlink_to("/etc/passwd")
    (standing / "hal").symlink_to(secret / "eve", target_is_directory=True)
    (secret / "eve" / SET).mkdir()
    assert collected(tree, None) == {
        "ada": "a",
        "eve": f"holds a link, {NAME}; put the file itself there",
        "gus": "holds a link, data.csv; put the file itself there",
        "hal": "its folder in submitted/ is a link; put the folder itself there",
    }


def member(name, mode=0, method=zipfile.ZIP_DEFLATED):
    info = zipfile.ZipInfo(name, (2027, 1, 1, 0, 0, 0))
    info.compress_type, info.external_attr = method, mode << 16
    return info


def test_odd_members_are_their_students_alone(tree, tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member(f"ada/{NAME}"), titled("a"))
        archive.writestr(member(f"link/{NAME}", stat.S_IFLNK | 0o777), "/etc/passwd")
        archive.writestr(member(f"pipe/{NAME}", stat.S_IFIFO | 0o777), "")
        archive.writestr(member(f"lzma/{NAME}", method=zipfile.ZIP_LZMA), bytes(50_000_000))
        archive.writestr(member(f"bomb/{NAME}"), bytes(60_000_000))
        archive.writestr(member(f"lies/{NAME}"), bytes(60_000_000))
        archive.writestr(member(f"torn/{NAME}", method=zipfile.ZIP_STORED), titled("torn"))
        archive.writestr(member(f"key/{NAME}"), titled("key"))
        archive.writestr(member("nest/all.zip"), zipped(tmp_path / "inner.zip", {f"x/{NAME}": "x"}).read_bytes())
        archive.writestr(member(f"nest/{NAME}"), titled("n"))
    data = bytearray(path.read_bytes())
    lies = data.index(b"PK\x01\x02", data.rindex(f"bomb/{NAME}".encode()))
    struct.pack_into("<L", data, lies + 24, 1000)  # the size that it claims
    data[data.index(b"torn", data.index(f"torn/{NAME}".encode()) + 20)] ^= 0xFF
    key = data.index(b"PK\x01\x02", data.rindex(f"torn/{NAME}".encode()))
    data[key + 8] |= 1
    path.write_bytes(data)
    found = collected(tree, path)
    assert (found.pop("ada"), found.pop("nest")) == ("a", "n")
    again = "; hand in the plain file"
    assert (
        found.pop("link") == f"link/{NAME} is a link{again}"
        and found.pop("pipe") == f"pipe/{NAME} is no plain file{again}"
    )
    assert found.pop("lzma") == f"lzma/{NAME} is packed in a way that is not read here{again}"
    assert found.pop("key") == f"key/{NAME} is encrypted{again}"
    assert found.pop("bomb") == f"bomb/{NAME} is larger than 20 MB"
    assert found.pop("lies").startswith(f"lies/{NAME} cannot be read (Bad CRC-32")
    assert found.pop("torn").startswith(f"torn/{NAME} cannot be read (Bad CRC-32") and not found


def test_a_file_that_cannot_be_read_leaves_what_stands_there(tree, tmp_path):
    zipped(tmp_path / "all.zip", {f"ada/{NAME}": "a"})
    collected(tree, tmp_path / "all.zip")
    data = bytearray(zipped(tmp_path / "again.zip", {f"ada/{NAME}": "b"}).read_bytes())
    data[200] ^= 0xFF
    (tmp_path / "again.zip").write_bytes(data)
    assert collected(tree, tmp_path / "again.zip")["ada"].startswith(f"ada/{NAME} cannot be read (")
    assert collected(tree, None) == {"ada": "a"}


def test_duplicate_and_a_hundred_thousand_members(tree, tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for title, day in (("new", 3), ("old", 2)):
            archive.writestr(zipfile.ZipInfo(f"ada/{NAME}", (2027, 1, day, 0, 0, 0)), titled(title))
        archive.writestr(f"ben/{SET}/{NAME}", titled("b"))
        for number in range(100_000):
            archive.writestr(f"ben/{SET}/{number}.csv", b"")
    start = time.process_time()
    found = collected(tree, path)
    assert time.process_time() - start < 30
    assert found == {"ada": "new", "ben": "has 100000 files beside the notebook; at most 64 are taken"}


NOTEBOOKS = {
    "empty": (b"", f"{NAME} is empty or larger than 20 MB"),
    "60 MB": (b" " * 60_000_000, f"large/{NAME} is larger than 20 MB"),
    "text": (b"hello", "is not a notebook: it is not JSON (Expecting value"),
    "a list": (b"[]", "is not a notebook of format 4"),
    "format 3": (b'{"nbformat": 3, "worksheets": []}', "is not a notebook of format 4"),
    "format 5": (b'{"nbformat": 5, "cells": []}', "is not a notebook of format 4"),
    "no cells": (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "is not a valid notebook ("),
    "UTF-16": (titled("x").encode("utf-16"), "cannot be read ('utf-8' codec"),
    "invalid UTF-8": (titled("x").encode().replace(b"x", b"\xff"), "cannot be read ('utf-8' codec"),
    "BOM": (b"\xef\xbb\xbf" + titled("x").encode(), "is not a notebook: it is not JSON (Unexpected UTF-8 BOM"),
    "half an emoji": (titled("x").replace('"x"', r'"\ud83d"').encode(), "is not a valid notebook (UnicodeEncodeError"),
    "NaN": (titled("x").replace('"x"', "NaN").encode(), "is not JSON: it holds the number NaN"),
    "Infinity": (titled("x").replace('"x"', "-Infinity").encode(), "is not JSON: it holds the number -Infinity"),
    "1e999": (titled("x").replace('"x"', "1e999").encode(), "is not JSON: it holds the number inf"),
    "5,000 digits": (titled("x").replace('"x"', "9" * 5000).encode(), "is not a notebook: it is not JSON (Exceeds"),
    "deep": (titled("x").replace('"x"', "[" * 300 + "]" * 300).encode(), "is nested deeper than 100 levels"),
    "deepest": (b"[" * 1_000_000, "is not a notebook: it is not JSON (maximum recursion"),
    "many cells": (json.dumps({**RELEASED, "cells": RELEASED["cells"] * 200}).encode(), "has more than 1000 cells"),
    "truncated": (titled("x").encode()[:-9], "is not a notebook: it is not JSON ("),
}


@pytest.mark.parametrize(("data", "reason"), NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_bad_notebook_is_refused_in_one_line(tree, tmp_path, data, reason):
    found = collected(tree, zipped(tmp_path / "all.zip", {f"ada/{NAME}": "a", f"large/{NAME}": data}))
    assert found.pop("ada") == "a" and found.pop("large").startswith(reason) and not found


GARBLED = ["mine", None, [], 3, {}, {"grade_id": ["leaky-cell-test"]}, {"grade_id": {}}, {"schema_version": "x"}]
GARBLED += [{"grade": True, "grade_id": "x", "points": points} for points in ("3", -1, None, [], 10**400)]


@pytest.mark.parametrize("data", GARBLED, ids=repr)
def test_garbled_metadata_stops_nobody(tree, tmp_path, data):
    nb = json.loads(titled("a"))
    nb["metadata"]["kernelspec"] = {"name": "julia", "display_name": "Julia"}
    graded_cell(nb, "leaky-cell-test")["metadata"]["nbgrader"] = data
    ada = one(tree, zipped(tmp_path / "all.zip", {f"ada/{NAME}": json.dumps(nb).encode()}))
    assert (ada.refused, ada.notes) == ("", ["the cell 'leaky-cell-test' is missing"])


def test_cells_that_repeat_are_noted(tree, tmp_path):
    nb = json.loads(titled("a"))
    nb["cells"].append(graded_cell(nb, "leaky-cell-test"))
    ada = one(tree, zipped(tmp_path / "all.zip", {f"ada/{NAME}": json.dumps(nb).encode()}))
    assert (ada.refused, ada.notes) == ("", ["the cell 'leaky-cell-test' occurs 2 times"])


def overlapping(path):
    """A zip whose members share their bytes."""
    zipped(path, {f"{student}/{NAME}": "x" * 10**6 for student in "ab"})
    data = bytearray(path.read_bytes())
    data[-6:-2] = struct.pack("<L", data.index(b"PK\x01\x02"))
    first, second = (match.start() for match in re.finditer(b"PK\x01\x02", data))
    entry = data[first:second]
    end = data.index(b"PK\x05\x06")
    count = 1000
    data[first:end] = bytes(entry) * count
    struct.pack_into("<HHLL", data, len(data) - 14, count, count, len(entry) * count, first)
    path.write_bytes(data)


def without_students(path):
    zipped(path, {NAME: "no", "notes/.hidden.ipynb": "no"})


def truncated(path):
    path.write_bytes(zipped(path, {f"ada/{NAME}": "a"}).read_bytes()[:-30])


def garbled_list(path):
    data = bytearray(zipped(path, {f"ada/{NAME}": "a"}).read_bytes())
    data[data.index(b"PK\x01\x02")] = 0
    path.write_bytes(data)


UNFIT = {
    overlapping: "all.zip: cannot be read (its members overlap); download it again",
    without_students: "all.zip: holds no notebook whose student can be told; name it STUDENT.ipynb",
    truncated: "all.zip: is no folder, no notebook and no zip that can be read",
    garbled_list: "all.zip: cannot be read (",
    Path.mkdir: "all.zip: holds no notebook whose student can be told",
    os.mkfifo: "all.zip: is no folder, no notebook and no zip that can be read",
    lambda path: None: "all.zip: there is no such file or folder",
}


@pytest.mark.parametrize(("make", "said"), UNFIT.items())
def test_what_cannot_be_taken_in_is_one_line(tree, tmp_path, make, said):
    make(tmp_path / "all.zip")
    with pytest.raises(UserError) as caught:
        intake.collect(tree, SET, tmp_path / "all.zip")
    assert str(caught.value).startswith(f"{tmp_path}/{said}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["all.tar.gz", "all.7z"])
def test_other_archives_are_one_line(tree, tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(
        UserError, match=f"{name}: is no folder, no notebook and no zip that can be read; pack submissions as a zip"
    ):
        intake.collect(tree, SET, tmp_path / name)


def test_nothing_submitted_and_unknown_sets(tree):
    with pytest.raises(UserError, match=f"^nothing is submitted for {SET}: put notebooks into submitted/STUDENT/"):
        intake.collect(tree, SET, None)
    with pytest.raises(UserError, match=f"^there is no problem set '03-x'; the sets are: {SET}, 02-attention$"):
        intake.collect(tree, "03-x", None)


def test_a_set_without_its_notebook_is_one_line(tree):
    (tree / "solutions" / SET / NAME).unlink()
    put(tree / "submitted", {f"ada/{SET}/{NAME}": "a"})
    said = one_line(*rnn2rag(tree, "grade", SET, "--no-sandbox"))
    assert said.endswith(f"solutions/{SET}: its notebook is not made yet; run `make exercises`")


# Lateness

DUE = {SET: "2027-03-01 23:00 +01:00"}  # 22:00 UTC
MINUTE, DAY = 60.0, 86400.0


def with_policy(tree, text):
    """Add to nbgrader_config.py of a tree."""
    with (tree / "nbgrader_config.py").open("a", encoding="utf8") as config:
        config.write(f"\n{text}\n")
    return tree


LOSSES = [
    ("", 9 * DAY, None),
    ("c.LatePenalty.per_day = 0.1", 1, 0.8),
    ("c.LatePenalty.per_day = 0.1", DAY, 0.8),
    ("c.LatePenalty.per_day = 0.1", DAY + 1, 1.6),
    ("c.LatePenalty.per_day = 0.1; c.LatePenalty.grace = 15", 15 * MINUTE, None),
    ("c.LatePenalty.per_day = 0.1; c.LatePenalty.grace = 15", 16 * MINUTE, 0.8),
    ("c.LatePenalty.per_day = 0.1", 99 * DAY, 8),
    ("c.LatePenalty.per_day = 0.1; c.LatePenalty.most = 0.5", 99 * DAY, 4),
    ("c.LatePenalty.per_day = 0.1; c.LatePenalty.most = 0.5; c.LatePenalty.last_day = 7", 7 * DAY, 4),
    ("c.LatePenalty.per_day = 0.1; c.LatePenalty.most = 0.5; c.LatePenalty.last_day = 7", 7 * DAY + 1, 8),
    ("c.LatePenalty.last_day = 0", 1, 8),
    ('c.LateSubmissionPlugin.penalty_method = "zero"', 1, 8),
]


@pytest.mark.parametrize(("policy", "seconds", "lost"), LOSSES)
def test_what_lateness_costs(tree, policy, seconds, lost):
    from rnn2rag.grading import lateness

    penalty = lateness.LatePenalty(config=course.nbgrader_config(with_policy(tree, policy)))
    found = penalty.late_submission_penalty("ada", 8.0, seconds)
    assert found is None if lost is None else found == pytest.approx(lost)


BAD_POLICIES = {
    'due = {"03-x": "2027-03-01 23:00 UTC"}': "due['03-x']: there is no such problem set; the sets are: " + SET,
    f'due = {{"{SET}": "2027-03-01 23:00"}}': f"due['{SET}']: '2027-03-01 23:00' is no date with a time zone; write it",
    f'due = {{"{SET}": "2027-02-30 23:00 UTC"}}': f"due['{SET}']: '2027-02-30 23:00 UTC' is no date with a time zone",
    f'due = {{"{SET}": "2027-02-03 23:00 Mars/Base"}}': f"due['{SET}']: '2027-02-03 23:00 Mars/Base' is no date",
    f'due = {{"{SET}": "2027-02-03 23:00 ../../etc/passwd"}}': f"due['{SET}']: '2027-02-03 23:00 ../../etc/passwd'",
    f'due = {{"{SET}": "2027-02-03 23:00 +99:00"}}': f"due['{SET}']: '2027-02-03 23:00 +99:00' is no date",
    f'due = {{"{SET}": 3}}': f"due['{SET}']: 3 is no date with a time zone",
    'due = "tomorrow"': "The 'due' trait of a LatePenalty instance expected a dict, not the str 'tomorrow'.",
    f'extensions = {{"{SET}": {{"ada": "2027-03-01 23:00 UTC"}}}}': f"extensions['{SET}']: the set has no due date",
    f'due = {DUE}; c.LatePenalty.extensions = {{"{SET}": "ada"}}': f"extensions['{SET}']: must be {{student: date}}",
    f'due = {DUE}; c.LatePenalty.extensions = {{"{SET}": {{"ada": "2027-02-01 23:00 UTC"}}}}': (
        f"extensions['{SET}']: the date for 'ada' is before the due date"
    ),
    "per_day = 1.5": "per_day: must be a share from 0 to 1, not 1.5",
    "per_day = float('nan')": "per_day: must be a share from 0 to 1, not nan",
    "most = -1": "most: must be a share from 0 to 1, not -1",
    "grace = -1": "grace: must be 0 or more, not -1",
    'last_day = "seven"': "The 'last_day' trait of a LatePenalty instance expected a float, not the str 'seven'.",
}


@pytest.mark.parametrize(("policy", "said"), BAD_POLICIES.items())
def test_a_bad_policy_is_one_line(tree, policy, said):
    from nbgrader.api import Gradebook

    from rnn2rag.grading import lateness

    config = course.nbgrader_config(with_policy(tree, f"c.LatePenalty.{policy}"))
    with Gradebook("sqlite://") as gradebook, pytest.raises(UserError) as caught:
        gradebook.add_assignment(SET)
        lateness.apply_dates(gradebook, SET, config)
    line = str(caught.value)
    assert line.startswith("nbgrader_config.py: c.LatePenalty") and said in line and "\n" not in line


def test_dates_go_into_nbgraders_gradebook(tree):
    from nbgrader.api import Gradebook

    from rnn2rag.grading import lateness

    later = {SET: {"ben": "2027-03-29 03:30 Europe/Berlin", "nobody": "2027-04-01 00:00 UTC"}}
    config = course.nbgrader_config(with_policy(tree, f"c.LatePenalty.due = {DUE}; c.LatePenalty.extensions = {later}"))
    with Gradebook("sqlite://") as gradebook:
        gradebook.add_assignment(SET)
        gradebook.add_assignment("02-attention", duedate="2027-01-01 00:00:00 UTC")
        for student in ("ada", "ben"):
            gradebook.add_student(student)
            gradebook.add_submission(SET, student, timestamp="2027-03-29 01:31:00 UTC")
        lateness.apply_dates(gradebook, SET, config)
        lateness.apply_dates(gradebook, "02-attention", config)
        ada, ben = (gradebook.find_submission(SET, student) for student in ("ada", "ben"))
        assert ada.duedate == datetime(2027, 3, 1, 22) and ada.extension is None
        assert ben.duedate == datetime(2027, 3, 29, 1, 30) and ben.total_seconds_late == 60
        assert gradebook.find_assignment("02-attention").duedate == datetime(2027, 1, 1)


PLANTED = (COURSE / "solutions" / SET / "misconceptions.py").read_text(encoding="utf8")


def answered(name="one_sequence_after_the_other"):
    """The released notebook with a planted answer."""
    nb = json.loads(titled("answered"))
    source = re.search(rf"^def {name}\(.*?(?=^@|\Z)", PLANTED, re.S | re.M)[0].strip()
    graded_cell(nb, "leaky-cell")["source"] = source.replace(name, "leaky_states")
    return json.dumps(nb).encode()


def nbgrader(tree, *arguments):
    program = str(Path(sys.executable).with_name("nbgrader"))
    run = subprocess.run([program, *arguments], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def rows(path):
    with path.open(encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


COLUMNS = ("student_id", "duedate", "timestamp", "raw_score", "late_submission_penalty", "score")


def test_stock_autograde_takes_the_same_penalty(tree):
    later = {SET: {"ben": "2027-03-03 22:00 UTC"}}
    with_policy(tree, f"c.LatePenalty.due = {DUE}; c.LatePenalty.extensions = {later}; c.LatePenalty.per_day = 0.1")
    for student in ("ada", "ben"):
        stamp = b"2027-03-04 10:00:00.000000 UTC\n"
        put(tree / "submitted", {f"{student}/{SET}/{NAME}": answered(), f"{student}/{SET}/timestamp.txt": stamp})
    status, stdout, stderr = rnn2rag(tree, "grade", SET, "--json")
    assert status == 0, stderr
    results = {result["student"]: result for result in json.loads(stdout)}
    assert results["ada"]["late"] == 2.5 * DAY and results["ben"]["late"] == 0.5 * DAY
    ours = sorted([row[column] for column in COLUMNS] for row in rows(tree / "grades.csv"))
    lost = {student: float(penalty) / float(raw) for student, _, _, raw, penalty, _ in ours}
    assert lost == {"ada": pytest.approx(0.3), "ben": pytest.approx(0.1)}
    assert results["ada"]["penalty"] == float(ours[0][4])
    for path in ("gradebook.db", "grades.csv"):
        (tree / path).unlink()
    nbgrader(tree, "generate_assignment", SET, "--force")
    nbgrader(tree, "autograde", SET, "--force")
    nbgrader(tree, "export")
    assert sorted([row[column] for column in COLUMNS] for row in rows(tree / "grades.csv")) == ours


# Grades out


@pytest.fixture
def graded(tree, tmp_path):
    """A class with scores in its gradebook, one late, one half graded, one with a dangerous name."""
    from nbgrader.api import Gradebook

    from rnn2rag.grading.gradebook import Book

    intake.collect(tree, SET, zipped(tmp_path / "a.zip", ZIPS["Canvas"]))
    intake.collect(tree, SET, zipped(tmp_path / "b.zip", {f"{MOODLE.format('Cleo', 501)}/{NAME}": "c"}))
    with Book(tree, SET):
        pass
    people = {
        "ada": {"first_name": '=cmd|"/c calc"!A1', "last_name": "Lovelace, Countess", "email": "ada@uni.edu"},
        "ben": {"email": "=1+1@uni.edu"},
        "Cleo": {"first_name": "Cléo"},
        "dora": {},
        "emil": {},
    }
    with Gradebook(f"sqlite:///{tree / 'gradebook.db'}") as gradebook:
        for student, about in people.items():
            gradebook.add_student(student, **about)
            submission = gradebook.add_submission(SET, student)
            for grade in submission.notebooks[0].grades:
                if grade.max_score_gradecell or student != "dora":
                    grade.manual_score, grade.needs_manual_grade = grade.max_score / 3, student == "dora"
            if student == "ben":
                submission.notebooks[0].late_submission_penalty = 1.0
        gradebook.db.commit()
    return tree


def test_grades_for_canvas(graded):
    exports.write(graded, SET)
    with (graded / f"grades-{SET}-canvas.csv").open(encoding="utf8", newline="") as file:
        head, points, *students = list(csv.reader(file))
    assert head == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", SET]
    assert points[0] == "    Points Possible" and points[5] == "8"
    assert students == [
        ["Cléo", "", "", "Cleo", "", "2.6667"],
        ['\'=cmd|"/c calc"!A1 Lovelace, Countess', "71", "", "ada", "", "2.6667"],
        ["ben", "72", "", "ben", "", "1.6667"],
        ["emil", "", "", "emil", "", "2.6667"],
    ]


def test_grades_for_moodle(graded):
    cell = CellScore("t", 0.0, 2.0, [{"message": "a < b"}, {"message": ""}])
    left = exports.write(graded, SET, [Result("ben", cells=[cell]), Result("emil", refused="is no notebook")])
    assert left == ["dora", "emil"]
    found = {row["ID number"]: row for row in rows(graded / f"grades-{SET}-moodle.csv")}
    assert list(found) == ["Cleo", "ada", "ben"]
    assert {"Identifier", "Grade", "Last modified (grade)", "Feedback comments"} <= found["Cleo"].keys()
    assert (found["Cleo"]["Identifier"], found["Cleo"]["Grade"]) == ("Participant 501", "2.6667")
    assert (found["ada"]["Identifier"], found["ada"]["Email address"]) == ("", "ada@uni.edu")
    assert found["ben"]["Email address"] == ""
    assert found["ben"]["Feedback comments"] == (
        "2.6667 of 8 points.<br>1 points are taken off for handing in late.<br>a &lt; b"
    )
    for path in graded.glob("grades-*.csv"):
        with path.open(encoding="utf8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r") or cell[:1] == "-" and cell != "-"]


def test_grades_csv_is_nbgraders_own(graded):
    exports.write(graded, SET)
    ours = (graded / "grades.csv").read_bytes()
    nbgrader(graded, "export")
    assert (graded / "grades.csv").read_bytes() == ours and b"late_submission_penalty" in ours
    assert not list(graded.glob(".grades*"))


def test_a_set_that_nobody_graded_is_one_line(graded):
    with pytest.raises(UserError, match="^gradebook.db: has no problem set '02-attention'; grade it first$"):
        exports.write(graded, "02-attention")


# Interrupted, large, damaged at random


def test_an_interrupted_intake_leaves_one_of_the_two(tree, tmp_path):
    collected(tree, put(tmp_path / "a", {f"ada/{SET}/{NAME}": "a", f"ben/{SET}/{NAME}": "b"}))
    for student, kept in (("ada", False), ("ben", True)):  # before and after the new one was put into its place
        folder = tree / "submitted" / student / SET
        put(folder.with_name(f".{SET}.new"), {"half": b""})
        if kept:
            put(folder.with_name(f".{SET}.old"), {NAME: "old"})
        else:
            folder.rename(folder.with_name(f".{SET}.old"))
    assert collected(tree, None) == {"ada": "a", "ben": "b"}
    assert not [path for path in (tree / "submitted").glob("*/.*")]


PEAK = """
import resource, sys
from pathlib import Path
from rnn2rag.grading import intake
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = intake.collect(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(len(found), sum(bool(s.refused) for s in found), used.ru_maxrss - before, used.ru_utime + used.ru_stime)
"""


def test_a_class_of_a_thousand_stays_out_of_memory(tree, tmp_path):
    data = os.urandom(1_000_000)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number in range(1000):
            folder = MOODLE.format(f"s{number:04}", number)
            archive.writestr(f"{folder}/{NAME}", titled(str(number)))
            if number < 300:
                archive.writestr(f"{folder}/data.bin", data)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tree), SET, str(tmp_path / "all.zip")],
        capture_output=True,
        text=True,
        check=True,
    )
    found, refused, peak, seconds = run.stdout.split()
    assert (found, refused) == ("1000", "0") and int(peak) < 150_000, peak  # KiB, with nbformat and nbgrader loaded
    assert float(seconds) < 40


def test_a_usual_notebook_is_judged_in_ten_milliseconds(tree):
    nb = json.loads(titled("a"))
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": "A" * 20_000}}]
    for number in range(20):
        put(tree / "submitted", {f"s{number:02}/{SET}/{NAME}": json.dumps(nb).encode()})
    intake.collect(tree, SET, None)
    start = time.process_time()
    assert len(intake.collect(tree, SET, None)) == 20
    assert (time.process_time() - start) / 20 < 0.010


def test_three_hundred_damaged_submissions():
    outcomes, failures = fuzz.fuzz(300, seed=int(time.time()) // 86400)
    assert not failures, failures
    assert min(outcomes["fit"], outcomes["refused"]) > 30
