"""What code uses: definitions of rnn2rag.built, and the models and data that it loads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rnn2rag import catalog
from rnn2rag.errors import UserError

_MAGIC = re.compile(r"^(\s*)[%!].*", re.M)


def built_parts(program: str, built: Path) -> list[str]:
    """Return the source of every definition that a program uses from rnn2rag.built, and that these use in turn.

    built: the folder of the package's modules.
    """
    parts: dict[tuple[str, str], str] = {}
    todo = [(module, name) for _, module, name in _imported(ast.parse(program))]
    while todo:
        module, name = todo.pop()
        path = built / f"{module}.py"
        if (module, name) in parts or not path.exists():
            continue
        tree = ast.parse(path.read_text(encoding="utf8"))
        defined = {bound: node for node in tree.body for bound in _bound(node)}
        if name == "*":  # the module as a whole
            todo += [(module, bound) for bound in defined]
        elif name in defined:
            parts[module, name] = ast.unparse(defined[name])
            used = {node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)}
            todo += [(module, bound) for bound in used]
            todo += [(other, original) for bound, other, original in _imported(tree) if bound in used]
    return [parts[key] for key in sorted(parts)]


def loaded(cells: Iterable[str], built: Path) -> list[str]:
    """Return the catalog's names of what cells load with `data.load` or `models.load`, by themselves or through built.

    A cell that is not Python is passed over. Raises UserError where a call does not write the name itself, and for a
    name that the catalog does not know.
    """
    found = set()
    for cell in cells:
        program = _MAGIC.sub(r"\1pass", cell)
        try:
            parts = [program, *built_parts(program, built)]
        except SyntaxError:  # meant to be one
            continue
        found |= {catalog.entry(name).name for part in parts for name in _names_loaded(part)}
    return sorted(found)


def _names_loaded(program: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Call) and re.search(r"\b(data|models)\.load$", ast.unparse(node.func)):
            match node.args:
                case [ast.Constant(str(name)), *_]:
                    yield name
                case _:
                    raise UserError(
                        f"`{ast.unparse(node)}` does not tell what it loads: write the name in it, as in "
                        'data.load("co2"); the first cell of the notebook fetches it'
                    )


def _imported(tree: ast.Module) -> list[tuple[str, str, str]]:
    """What a program imports from rnn2rag.built: the name it gives to it, the module, the name there (* for all)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rnn2rag.built":
            found += [(alias.asname or alias.name, alias.name, "*") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rnn2rag.built."):
            module = node.module.rpartition(".")[2]
            found += [(alias.asname or alias.name, module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.startswith("rnn2rag.built.")]
            found += [(alias.asname or "rnn2rag", alias.name.rpartition(".")[2], "*") for alias in names]
    return found


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
    return []
