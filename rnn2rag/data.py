"""Data sets by name: `load("reuters-r8")` gives a `datasets.DatasetDict`, offline, from the plain files in the cache.

They are small, so each is read anew into memory: nothing is written, and no other cache comes into play. At the full
scale a role, such as "tales", names a larger data set: that one comes from the hub, and the hub's own cache keeps it.
"""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from rnn2rag import catalog, machine
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

    Columns = dict[str, list]

# Orange's tables start with three lines: the columns' names, their types, their roles.
_ORANGE_HEADER = 3
# name: the column of numbers and its type, the lines of the header, what makes a date of what the file has
_SERIES = {
    "air-passengers": ("passengers", "int32", _ORANGE_HEADER, "-01"),
    "co2": ("co2", "float64", 1, ""),
}


def load(name: str) -> DatasetDict:
    """Return a data set of the catalog with its own splits; one split, "train", where it has none.

    name, and the columns:

    - "reuters-r8", "reuters-r52": text (lower-cased news without punctuation or digits), label (the topic);
      splits "train" and "test". Articles that occur twice are kept, as in the benchmark.
    - "grimm": title, abstract, text of a tale, topic (a class), atu (its number in the Aarne-Thompson-Uther index, such
      as "510A"), atu_type.
    - "air-passengers": date (the first of the month), passengers (in thousands).
    - "co2": date (the Saturday that ends the week), co2 (ppm; None where the week has no measurement).
    - "tales": "grimm", and at the full scale TinyStories from the hub: text.

    Each split's `info` has the title, license, citation and source that the catalog states.
    The scale is that of `rnn2rag.runtime()`. Raises UserError for an unknown name, for files that are not in the cache,
    and when the hub does not answer.
    """
    from datasets import Dataset, DatasetDict, DatasetInfo, disable_progress_bars

    disable_progress_bars()  # `map` and `filter` draw them on stderr, which is an error in a section
    role = catalog.roles().get(name)
    if role and machine.scale() == "full":
        return DatasetDict({"train": _from_hub(role)})
    found = catalog.entry(name, kind="data")
    place = catalog.folder(name)
    if found.name == "grimm":
        features, splits = _tales(place)
    elif found.name in _SERIES:
        features, splits = _series(place / found.files[0].name, *_SERIES[found.name])
    else:
        features, splits = _topics(place)
    info = DatasetInfo(
        description=found.title, citation=found.citation, homepage=found.url, license=found.license, features=features
    )
    return DatasetDict(
        {split: Dataset.from_dict(columns, features=features, info=info) for split, columns in splits.items()}
    )


def _from_hub(role: catalog.Role) -> Dataset:
    """Read the Parquet file that a role names in the hub, from the hub's cache where it is there already."""
    from datasets import Dataset, DatasetInfo
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(role.hub, role.path, repo_type="dataset", revision=role.revision)
    except OSError as error:
        raise UserError(
            f"the hub did not give {role.hub}: check the network, or use the embedded scale (RNN2RAG_SCALE=embedded)"
        ) from error
    table = Dataset.from_parquet(file, keep_in_memory=True)
    table.info.update(
        DatasetInfo(description=role.title, citation=role.citation, homepage=role.url, license=role.license)
    )
    return table


def _topics(place: Path) -> tuple[Features, dict[str, Columns]]:
    """Read the two tables of a Reuters benchmark: topic and text."""
    from datasets import ClassLabel, Features, Value

    tables = {split: _rows(place / f"{split}.tab", "\t", _ORANGE_HEADER) for split in ("train", "test")}
    topics = sorted({topic for rows in tables.values() for topic, _ in rows})
    number = {topic: index for index, topic in enumerate(topics)}
    splits = {
        split: {"text": [text.strip() for _, text in rows], "label": [number[topic] for topic, _ in rows]}
        for split, rows in tables.items()
    }
    return Features({"text": Value("string"), "label": ClassLabel(names=topics)}), splits


def _tales(place: Path) -> tuple[Features, dict[str, Columns]]:
    """Read the table of tales; "326.0" in it is the number 326 of the index."""
    from datasets import ClassLabel, Features, Value

    topic, title, abstract, text, atu, atu_type = zip(*_rows(place / "tales.tab", "\t", _ORANGE_HEADER), strict=True)
    topics = sorted(set(topic))
    columns = {
        "title": list(title),
        "abstract": list(abstract),
        "text": list(text),
        "topic": [topics.index(one) for one in topic],
        "atu": [number.removesuffix(".0") for number in atu],
        "atu_type": list(atu_type),
    }
    features = Features({name: Value("string") for name in columns} | {"topic": ClassLabel(names=topics)})
    return features, {"train": columns}


def _series(path: Path, column: str, dtype: str, header: int, day: str) -> tuple[Features, dict[str, Columns]]:
    """Read a series: after `header` lines, a date (which `day` completes) and a number, or nothing, a line."""
    from datasets import Features, Value

    number = int if dtype == "int32" else float
    rows = _rows(path, ",", header)
    columns = {
        "date": [date.fromisoformat(when + day) for when, _ in rows],
        column: [number(value) if value else None for _, value in rows],
    }
    return Features({"date": Value("date32"), column: Value(dtype)}), {"train": columns}


def _rows(path: Path, delimiter: str, header: int) -> list[list[str]]:
    """Return a table's rows below its header, without those that have nothing in them."""
    with path.open(encoding="utf8", newline="") as stream:
        return [row for row in list(csv.reader(stream, delimiter=delimiter))[header:] if any(row)]
