"""From the book's MyST to plain Markdown, which JupyterLab, Colab and GitHub render.

The book uses a dozen constructs and no more; an unknown one is an error that names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import plan
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from pybtex.database import Entry

ADMONITIONS = ("note", "tip", "warning", "important")
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,}|:{3,}|~{3,})\s*(?:\{(?P<name>[\w:-]+)\}\s*(?P<title>.*))?(?P<info>[^{`][^`]*)?$"
)
_OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
_TARGET = re.compile(r"^\((?P<label>[\w:.-]+)\)=\s*$")
# A span of code, which ends in its own paragraph, or a role.
_ROLE = re.compile(
    r"(?P<code>(?<![`}])(?P<t>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=t)(?!`))"
    r"|\{(?P<name>[\w:.+-]+)\}`(?P<body>[^`]+)`",
    re.S,
)
_NAMED = re.compile(r"^(?P<text>.*?)\s*<(?P<target>[^<>]+)>$", re.S)
_HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*$", re.M)


@dataclass
class Library:
    """What a page may refer to: every target with its page and title, and every entry of the bibliography.

    root: the course's tree. targets: {label: (page, title)}. entries: {key: entry of references.bib}. plans: what each
    section takes at both scales, as stored.
    """

    root: Path
    targets: dict[str, tuple[Path, str]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Library:
        """Read the targets of every page under chapters/ and the bibliography in assets/references.bib."""
        from pybtex.database import parse_file

        library = cls(root)
        for page in sorted(root.glob("chapters/**/*.md")):
            lines = page.read_text(encoding="utf8").splitlines()
            for number, line in enumerate(lines):
                target = _TARGET.match(line)
                heading = target and _HEADING.search("\n".join(lines[number + 1 :]))
                if target and heading:
                    library.targets[target["label"]] = (page, heading["title"])
        library.entries = dict(parse_file(str(root / "assets" / "references.bib")).entries)
        library.plans = plan.stored(root)
        return library


@dataclass
class Page:
    """One page on its way to plain Markdown.

    path: the source. glued: values of the run by name. run_box: the run's facts in words. cited: keys, as they come up.
    """

    path: Path
    library: Library
    glued: Mapping[str, object] = field(default_factory=dict)
    run_box: str = ""
    cited: list[str] = field(default_factory=list)

    def plain(self, text: str) -> str:
        """Return one Markdown cell as plain Markdown. Raises UserError for a construct that the book does not use."""
        return "\n".join(self._lines(text.splitlines())).strip("\n")

    def _lines(self, lines: list[str]) -> Iterator[str]:
        prose: list[str] = []
        number = 0
        while number < len(lines):
            fence = _FENCE.match(lines[number])
            if not fence:
                if not _TARGET.match(lines[number]) and not lines[number].startswith("% "):
                    prose.append(lines[number])
                number += 1
                continue
            yield from self._prose(prose)
            prose = []
            end = self._end_of(fence, lines, number)
            if fence["name"] is None:
                yield from lines[number : end + 1]
            else:
                indent = fence["indent"]
                body = [line.removeprefix(indent) for line in lines[number + 1 : end]]
                plain = self._directive(fence["name"], self._text(fence["title"]).strip(), body)
                yield from (indent + line if line else "" for line in plain)
            number = end + 1
        yield from self._prose(prose)

    def _end_of(self, fence: re.Match[str], lines: list[str], start: int) -> int:
        for number in range(start + 1, len(lines)):
            text = lines[number].strip()
            if text and set(text) == {fence["ticks"][0]} and len(text) >= len(fence["ticks"]):
                return number
        raise UserError(f"{self.path}: a block that starts with {lines[start].strip()!r} has no end")

    def _prose(self, lines: list[str]) -> Iterator[str]:
        if lines:
            yield from self._text("\n".join(lines)).split("\n")

    def _text(self, text: str) -> str:
        return _ROLE.sub(self._role, text)

    def _directive(self, name: str, title: str, body: list[str]) -> Iterator[str]:
        options, body = _options(body)
        if name in ADMONITIONS:
            yield f"> **{title or name.capitalize()}**"
            yield ">"
            yield from (f"> {line}".rstrip() for line in self._lines(body))
        elif name == "dropdown":
            yield from (f"<details><summary>{title}</summary>", "", *self._lines(body), "", "</details>")
        elif name == "run-box":
            yield f"> {self.run_box}"
        elif name == "scale-table":
            yield from self._scale_table()
        elif name == "figure":
            yield f"![{options.get('alt', '')}]({self._path_to(self._file(title))})"
            yield from ("", *self._lines(body))
        elif name == "math":
            yield from ("$$", *body, "$$")
        elif name == "bibliography":
            yield from (f"- {_reference(self.library.entries[key])}" for key in sorted(set(self.cited)))
        else:
            raise UserError(f"{self.path}: the directive {{{name}}} is not one that the book uses")

    def _scale_table(self) -> Iterator[str]:
        """The section's sizes at both scales, from its stored plan."""
        found = self.library.plans.get(self.path.relative_to(self.library.root).as_posix())
        if not found:
            raise UserError(f"{self.path}: has no plan; run `rnn2rag plan`")
        yield from ("| size | here | at full scale |", "|---|---|---|")
        yield from (f"| {what} | {small} | {large} |" for what, small, large in plan.rows(found))
        yield from ("", plan.COMPUTED)

    def _role(self, match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        name, body = match["name"], match["body"]
        roles: dict[str, Callable[[str], str]] = {
            "glue:text": self._glue,
            "cite:t": lambda keys: ", ".join(self._cite(key, "{} ({})") for key in keys.split(",")),
            "cite:p": lambda keys: "(" + "; ".join(self._cite(key, "{}, {}") for key in keys.split(",")) + ")",
            "ref": self._ref,
            "doc": self._doc,
            "term": lambda body: named["text"] if (named := _NAMED.match(body)) else body,
            "download": self._doc,
        }
        if name not in roles:
            raise UserError(f"{self.path}: the role {{{name}}} is not one that the book uses")
        return roles[name](body.strip())

    def _glue(self, body: str) -> str:
        key, _, style = body.partition(":")
        if key not in self.glued:
            raise UserError(f"{self.path}: {{glue:text}} asks for {key!r}, which no cell glues")
        try:
            return format(self.glued[key], style)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: {{glue:text}} cannot set {key!r} as {style!r} ({error})") from None

    def _cite(self, key: str, form: str) -> str:
        key = key.strip()
        if key not in self.library.entries:
            raise UserError(f"{self.path}: {key!r} is cited, but assets/references.bib has no such entry")
        self.cited.append(key)
        entry = self.library.entries[key]
        text = form.format(_authors(entry), entry.fields.get("year", "no year"))
        link = _link(entry)
        return f"[{text}]({link})" if link else text

    def _ref(self, body: str) -> str:
        named = _NAMED.match(body)
        label = named["target"] if named else body
        if label not in self.library.targets:
            raise UserError(f"{self.path}: {{ref}} names {label!r}, which no page marks")
        page, title = self.library.targets[label]
        return f"[{named['text'] if named else title}]({self._path_to(page)})"

    def _doc(self, body: str) -> str:
        named = _NAMED.match(body)
        target = named["target"] if named else body
        page = self._file(target if Path(target).suffix else f"{target}.md")
        heading = _HEADING.search(page.read_text(encoding="utf8")) if page.suffix == ".md" else None
        text = named["text"] if named else heading["title"] if heading else page.name
        return f"[{text}]({self._path_to(page)})"

    def _file(self, target: str) -> Path:
        base = self.library.root if target.startswith("/") else self.path.parent
        path = (base / target.lstrip("/")).resolve()
        if not path.is_file():
            raise UserError(f"{self.path}: a link names {target!r}, which does not exist")
        return path

    def _path_to(self, page: Path) -> str:
        """The path from here to a file; to its edition where the file is a text notebook."""
        is_source = page.suffix == ".md" and is_text_notebook(page)
        return Path(os.path.relpath(page.with_suffix(".ipynb") if is_source else page, self.path.parent)).as_posix()


def is_text_notebook(path: Path) -> bool:
    """Whether a Markdown file has the header of a text notebook."""
    head, _, _ = path.read_text(encoding="utf8").partition("\n---\n")
    return head.startswith("---\n") and re.search(r"^kernelspec:", head, re.M) is not None


def _options(body: list[str]) -> tuple[dict[str, str], list[str]]:
    options = {}
    while body and (option := _OPTION.match(body[0])):
        options[option[1]] = option[2]
        body = body[1:]
    return options, body


def _authors(entry: Entry) -> str:
    names = [" ".join(person.last_names).strip("{}") for person in entry.persons.get("author", [])]
    names = names or [entry.fields.get("organization", entry.key)]
    return names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."


def _link(entry: Entry) -> str:
    doi = entry.fields.get("doi")
    return f"https://doi.org/{doi}" if doi else entry.fields.get("url", "")


def _reference(entry: Entry) -> str:
    fields = entry.fields
    where = fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or ""
    parts = [
        f"{_authors(entry)} ({fields.get('year', 'no year')})",
        fields["title"].replace("{", "").replace("}", ""),
        where,
        _link(entry),
    ]
    return ". ".join(part for part in parts if part)
