"""The book: pages from the text sources, outputs from the editions beside them. A build executes nothing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rnn2rag.authoring import editions
from rnn2rag.authoring.markdown import Library
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

_COLOR = re.compile(r"\x1b\[[\d;]*m")
_WARNING = re.compile(r"\b(WARNING|ERROR|CRITICAL): ")


def build(root: Path) -> Path:
    """Build the book of the tree at `root` and return the path of its first page.

    What Jupyter Book prints goes to _build/book.log. Raises UserError when an edition does not match its source, and
    with the warnings when the build warns of anything.
    """
    if importlib.util.find_spec("jupyter_book") is None:
        raise UserError(
            "the book's tools are not installed: run `pip install -r requirements.txt` in the course's folder"
        )
    from filelock import FileLock

    sources, library = editions.sources(root), Library.of(root)
    for source in sources:
        editions.check(source, library)
    output = root / "_build"
    output.mkdir(exist_ok=True)
    with FileLock(output / "book.lock"):  # another build of this tree ends first
        fill_cache(sources, output / ".jupyter_cache")
        _run_jupyter_book(root, output)
    return output / "html" / "index.html"


def _run_jupyter_book(root: Path, output: Path) -> None:
    entry = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", entry, "build", ".", "-W", "--keep-going"]
    run = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf8")
    log = _COLOR.sub("", run.stdout)
    (output / "book.log").write_text(log, encoding="utf8")
    if run.returncode:
        # Sphinx takes a page that it has read for done, warnings or not; without its notes the next build reads all.
        shutil.rmtree(output / ".doctrees", ignore_errors=True)
        lines = log.strip().splitlines()
        found = [line.replace(f"{root}/", "") for line in lines if _WARNING.search(line)] or lines[-5:]
        raise UserError("\n  ".join([f"the book did not build ({output / 'book.log'} has everything)", *found]))


def fill_cache(sources: list[Path], folder: Path) -> None:
    """Write a jupyter-cache of the editions' outputs to `folder`, in place of what is there.

    sources: text notebooks, each with an edition that has its code cells. The build looks a page up by the notebook
    that MyST-NB reads from the source, so the cached one is read in the same way.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn
    from myst_nb.core.read import read_myst_markdown_notebook
    from myst_parser.config.main import MdParserConfig

    from rnn2rag import execute

    shutil.rmtree(folder, ignore_errors=True)
    cache = get_cache(folder)
    for source in sources:
        edition = execute.read(editions.edition_path(source))
        text = source.read_text(encoding="utf8")
        notebook = read_myst_markdown_notebook(text, MdParserConfig(), "{code-cell}", "{raw-cell}", str(source))
        for cell, executed in zip(_code_cells(notebook), _code_cells(edition), strict=True):
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
        cache.cache_notebook_bundle(CacheBundleIn(notebook, str(source)), check_validity=False, overwrite=True)


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
