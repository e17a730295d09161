"""The course in JupyterLab: a first page that leads to every notebook, and editions whose figures show."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rnn2rag import execute
from rnn2rag.authoring import editions
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from sphinx_external_toc.api import SiteMap

START = "start.md"  # at the top of the tree, where the file browser then stands; not in git
_TITLE = re.compile(r"^# (.+)$", re.M)
_ABOVE = """# From RNN to RAG

Open a section, run it from the top, and change it: it is yours. Solve a problem set in a copy of it (menu *File*, *Save
Notebook As*), because `exercises/` is written anew when the course changes. The same sections are pages of the book."""


def start(root: Path) -> NoReturn:
    """Become JupyterLab, opened on the course's start page. Raises UserError where JupyterLab is not installed."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise UserError("JupyterLab is not installed: run `pip install -r requirements.txt` in the course's folder")
    prepare(root)
    os.chdir(root)
    settings = [str(root / "assets" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, settings))
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url=/lab/tree/{START}"])


def prepare(root: Path) -> None:
    """Write the start page, and let this user's JupyterLab show the figures of the editions."""
    (root / START).write_text(start_page(root), encoding="utf8")
    trust(root)


def start_page(root: Path) -> str:
    """Return, as Markdown, links to the editions and problem sets of each chapter in _toc.yml that has any."""
    from sphinx_external_toc.api import FileItem
    from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

    try:
        toc = parse_toc_yaml(root / "_toc.yml")
    except MalformedError as error:
        raise UserError(f"{root / '_toc.yml'}: {error}") from None
    parts = [_ABOVE]
    for part in toc.root.subtrees:
        files = [str(item) for item in part.items if isinstance(item, FileItem)]
        chapters = [text for chapter in files if (text := "\n".join(_chapter(root, toc, chapter)))]
        if chapters:
            parts += [f"## {part.caption}", *chapters] if part.caption else chapters
    return "\n\n".join(parts).rstrip() + "\n"


def _chapter(root: Path, toc: SiteMap, name: str) -> Iterator[str]:
    """The title of a chapter, numbered as in the book, and a link to each of its notebooks; nothing if it has none."""
    pages = [name, *(str(item) for part in toc[name].subtrees for item in part.items)]
    notebooks = [notebook for page in pages if (notebook := root / f"{page}.ipynb").exists()]
    folder = Path(name).parent.name
    notebooks += sorted((root / "exercises" / folder).glob("*.ipynb"))
    if notebooks:
        number = re.match(r"0*([1-9]\d*)-", folder)
        yield f"### {f'{number[1]}. ' if number else ''}{_title(root / f'{name}.md')}\n"
        yield from (f"- [{_title(path)}]({path.relative_to(root).as_posix()})" for path in notebooks)


def _title(path: Path) -> str:
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in execute.read(path).cells if cell.cell_type == "markdown")
    elif path.exists():
        text = path.read_text(encoding="utf8")
    else:
        raise UserError(f"{path}: is named in _toc.yml, and there is no such file")
    found = _TITLE.search(text)
    return found[1] if found else path.stem


def trust(root: Path) -> None:
    """Sign every edition as this user's own: JupyterLab shows no figure of a notebook that it does not trust."""
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary()
    for source in editions.sources(root):
        if editions.edition_path(source).exists():
            notary.sign(execute.read(editions.edition_path(source)))
