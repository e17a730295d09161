"""Data sets as chapters get them: splits, rows, columns, values, and nothing on the side."""

import math
import os
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest
from datasets import ClassLabel, Value

from rnn2rag import catalog, data
from rnn2rag.errors import UserError

ROOT = Path(catalog.__file__).parent.parent


@pytest.mark.parametrize("name", catalog.names("data"))
def test_splits_and_rows_are_the_catalogs(name):
    entry = catalog.entry(name)
    loaded = data.load(name)
    assert {split: len(rows) for split, rows in loaded.items()} == entry.rows
    for rows in loaded.values():
        assert rows.info.description == entry.title and rows.info.license == entry.license
        assert rows.info.citation == entry.citation and rows.info.homepage == entry.url
        assert rows.cache_files == []


@pytest.mark.parametrize(("name", "topics"), [("reuters-r8", 8), ("reuters-r52", 52)])
def test_reuters(name, topics):
    loaded = data.load(name)
    for rows in loaded.values():
        assert set(rows.features) == {"text", "label"}
        assert rows.features["text"] == Value("string")
        label = rows.features["label"]
        assert isinstance(label, ClassLabel) and label.num_classes == topics and label.names == sorted(label.names)
        assert set(rows["label"]) == set(range(topics))
        assert all(text and text == text.strip() for text in rows["text"])


def test_reuters_labels_belong_to_their_texts():
    train = data.load("reuters-r8")["train"]
    first = train[0]
    assert first["text"].startswith("champion products ch approves stock split")
    assert train.features["label"].int2str(first["label"]) == "earn"
    counts = Counter(train.features["label"].int2str(train["label"]))
    assert counts["earn"] == 2840 and counts["acq"] == 1596 and counts["grain"] == 41
    about = {topic: train.filter(lambda row, t=topic: row["label"] == t) for topic in (1, 6)}
    share = {t: sum("oil" in text.split() for text in rows["text"]) / len(rows) for t, rows in about.items()}
    assert train.features["label"].int2str([1, 6]) == ["crude", "ship"] and share[1] > 2 * share[6]


def test_grimm():
    tales = data.load("grimm")["train"]
    assert list(tales.features) == ["title", "abstract", "text", "topic", "atu", "atu_type"]
    assert tales.features["topic"].names == sorted(tales.features["topic"].names) and len(set(tales["topic"])) == 5
    cinderella = tales[tales["title"].index("Cinderella")]
    assert cinderella["atu"] == "510A" and cinderella["atu_type"] == "Supernatural Helpers"
    assert tales.features["topic"].int2str(cinderella["topic"]) == "Tales of Magic"
    assert cinderella["text"].startswith("The wife of a rich man fell sick") and "slipper" in cinderella["text"]
    assert len(set(tales["title"])) == 54 and sum(map(len, tales["text"])) == 396396
    assert not any(number.endswith(".0") for number in tales["atu"])


def test_air_passengers():
    rows = data.load("air-passengers")["train"]
    assert rows.features["date"] == Value("date32") and rows.features["passengers"] == Value("int32")
    assert rows["date"][:] == [date(1949 + month // 12, month % 12 + 1, 1) for month in range(144)]
    assert rows["passengers"][:12] == [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118]
    assert rows["passengers"][-1] == 432


def test_co2_keeps_its_gaps():
    rows = data.load("co2")["train"]
    assert rows.features["date"] == Value("date32") and rows.features["co2"] == Value("float64")
    assert rows["date"][:] == [date(1958, 3, 29) + timedelta(weeks=week) for week in range(2284)]
    values = rows["co2"][:]
    assert values[0] == 316.1 and values[-1] == 371.5
    assert sum(value is None for value in values) == 59
    assert sum(map(math.isnan, rows.with_format("numpy")["co2"][:])) == 59
    assert all(310 < value < 375 for value in values if value is not None)


def test_names_that_are_no_data_sets():
    with pytest.raises(UserError, match=r"'minilm' is a model: load it with rnn2rag.models.load\('minilm'\)"):
        data.load("minilm")
    with pytest.raises(UserError, match="did you mean 'reuters-r8'"):
        data.load("reuters-8")


def test_data_that_is_not_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RNN2RAG_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="run `rnn2rag fetch grimm`"):
        data.load("grimm")


def test_loading_writes_nothing_and_is_quiet(tmp_path):
    before = {path: path.stat().st_mtime_ns for path in catalog.cache_dir().rglob("*")}
    code = "from rnn2rag import catalog, data; [data.load(name) for name in catalog.names('data')]"
    moved = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "x"), "TMPDIR": str(tmp_path)}
    moved |= {"RNN2RAG_CACHE": str(catalog.cache_dir())}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | moved
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []
    assert {path: path.stat().st_mtime_ns for path in catalog.cache_dir().rglob("*")} == before
