"""The generated package rnn2rag.built: one module a chapter, from the cells that its sections export.

A later chapter imports from it what an earlier one built; a cell tagged `export` is the one source.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from rnn2rag.authoring import editions
from rnn2rag.errors import UserError


def modules(root: Path) -> dict[Path, str]:
    """Return the path and the text of each module of rnn2rag/built, made from the sections in the order of the book."""
    cells: dict[Path, list[str]] = {}
    for source in _in_order(root):
        exported = [cell.source for cell in editions.read(source).cells if "export" in cell.metadata.get("tags", ())]
        if exported:
            cells.setdefault(source.parent, []).append(_section(source.relative_to(root), exported))
    return {
        root / "rnn2rag" / "built" / f"{module_name(chapter)}.py": _module(chapter, parts)
        for chapter, parts in cells.items()
    }


def module_name(chapter: Path) -> str:
    """Return the module of a chapter's folder: 01-recurrent-networks becomes recurrent_networks."""
    return chapter.name.partition("-")[2].replace("-", "_")


def write(root: Path) -> list[Path]:
    """Write the modules that changed, remove those that no section makes any more, and return what changed."""
    wanted = modules(root)
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf8") != text]
    for path in changed:
        path.write_text(wanted[path], encoding="utf8")
    for path in _left_over(root, wanted):
        path.unlink()
        changed.append(path)
    return changed


def check(root: Path) -> None:
    """Raise UserError unless every module is what its cells make."""
    wanted = modules(root)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf8") != text]
    stale += _left_over(root, wanted)
    if stale:
        raise UserError(f"{stale[0].relative_to(root)}: does not match its chapter's cells; run `make notebooks`")


def _left_over(root: Path, wanted: dict[Path, str]) -> list[Path]:
    return [p for p in sorted((root / "rnn2rag" / "built").glob("*.py")) if p not in wanted and p.name != "__init__.py"]


def _in_order(root: Path) -> list[Path]:
    """Sources in the order of _toc.yml; those that it does not name yet come last."""
    toc = re.findall(r"\b(?:file|root):\s*(\S+)", (root / "_toc.yml").read_text(encoding="utf8"))

    def place(source: Path) -> int:
        page = source.relative_to(root).with_suffix("").as_posix()
        return toc.index(page) if page in toc else len(toc)

    return sorted(editions.sources(root), key=place)


def _section(name: Path, cells: list[str]) -> str:
    for cell in cells:
        try:
            ast.parse(cell)
        except SyntaxError as error:
            raise UserError(f"{name}: an exported cell is not plain Python ({error.msg}: {error.text!r})") from None
    return "\n\n\n".join([f"# From {name.as_posix()}", *(cell.strip() for cell in cells)])


def _module(chapter: Path, sections: list[str]) -> str:
    head = f'"""Generated from the exported cells of chapters/{chapter.name}: edit those, then run `make notebooks`."""'
    return "\n\n\n".join([head, *sections]) + "\n"
