"""The book: pages from the text sources, outputs from the editions beside them. A build executes nothing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rnn2rag.authoring import editions
from rnn2rag.authoring.markdown import Library
from rnn2rag.errors import UserError

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


# Of several pages that are one now, each keeps its ids to itself; a link to a file of this machine is none on paper.
_ONE_PAGE = """() => {
    const taken = new Set(), links = [];
    let own = new Map();
    for (const element of document.querySelectorAll("article *")) {
        if (element.id.startsWith("document-")) own = new Map();
        else if (taken.has(element.id)) {
            const name = `${element.id}-${taken.size}`;
            own.set(`#${element.id}`, `#${name}`);
            element.id = name;
        } else if (element.id) own.set(`#${element.id}`, `#${element.id}`);
        if (element.id) taken.add(element.id);
        const link = element.getAttribute("href");
        if (link?.startsWith("#")) links.push([element, own]);
        else if (link && !link.startsWith("http")) element.removeAttribute("href");
    }
    for (const [link, own] of links) {
        const name = link.getAttribute("href");
        link.setAttribute("href", own.get(name) ?? name);
    }
}"""
_PAPER = {
    "format": "A4",
    "margin": {"top": "18mm", "bottom": "18mm", "left": "20mm", "right": "20mm"},
    "outline": True,
    "tagged": True,
    "print_background": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": '<p class="pageNumber" style="font-size: 8pt; text-align: center; width: 100%"></p>',
}


def print_pdf(root: Path, browser: str | None, options: Sequence[str]) -> Path:
    """Build the book, print all of it to one PDF with an outline, and return the PDF's path.

    browser: the program, of the Chromium family; None takes the one that playwright has installed. options: its command
    line's. Raises UserError as `build` does, and where no browser starts.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise UserError("playwright is not installed: run `pip install -r requirements.txt`") from None
    with sync_playwright() as playwright:
        try:
            program = playwright.chromium.launch(executable_path=browser, args=list(options))
        except Error:
            remedy = "apt-get install chromium, or playwright install chromium"
            raise UserError(f"the PDF needs Chromium, Chrome or Edge, and none starts here: {remedy}") from None
        source = _build_one_page(root)
        page = program.new_page()
        page.goto(source.as_uri())
        page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
        page.evaluate(_ONE_PAGE)
        page.pdf(path=root / "_build" / "book.pdf", **_PAPER)
        program.close()
    return root / "_build" / "book.pdf"


def _build_one_page(root: Path) -> Path:
    output = build(root).parents[1]
    from filelock import FileLock
    from sphinx_external_toc.parsing import parse_toc_yaml

    with FileLock(output / "book.lock"):
        _run_jupyter_book(root, output, "--builder", "custom", "--custom-builder", "singlehtml")
    return output / "singlehtml" / f"{parse_toc_yaml(root / '_toc.yml').root.docname}.html"


def _run_jupyter_book(root: Path, output: Path, *options: str) -> None:
    entry = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", entry, "build", ".", "-W", "--keep-going", *options]
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
        for cell, executed in zip(editions.code_cells(notebook), editions.code_cells(edition), strict=True):
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
        cache.cache_notebook_bundle(CacheBundleIn(notebook, str(source)), check_validity=False, overwrite=True)
