"""What the book changes in the pages of its theme; rnn2rag_pages has what is its own.

- MathJax comes from an installed package. Font Awesome, which the theme brings, is left out: book.css draws the icons.
- Controls that the theme and MyST-NB leave without a name, or with a wrong one, get theirs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

# tex-chtml, its fonts, and the TeX extensions that it loads when a page uses a macro of theirs.
MATHJAX_PARTS = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")
# Files of the theme that no page asks for; a page that did would fail the browser test.
UNUSED = ("scripts/fontawesome.js*", "**/*.map", "vendor", "locales", "images", "*webpack-macros.html")
CHAPTER = re.compile(r"chapters/(\d+)-[^/]+/index")


def fingerprint_assets(app: Sphinx, config: Config) -> None:
    """Put a hash of the book's own assets into the configuration, so that an edit to one makes every page again."""
    digest = hashlib.sha256()
    for folder in ("sphinx", "static", "templates"):
        for path in sorted(Path(app.srcdir, "assets", folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.read_bytes())
    config.rnn2rag_assets = digest.hexdigest()


def copy_mathjax(app: Sphinx) -> None:
    """Copy what MathJax needs from the package that carries it."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    for part in MATHJAX_PARTS:
        source = Path(package.origin).parent / "static" / "mathjax" / part
        target = Path(app.outdir, "_static", "mathjax", part)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def number_chapter(app: Sphinx, doctree: nodes.document) -> None:
    """Put a chapter's number, which is its folder's, before the title of its first page. Chapter 0 shows none."""
    chapter = CHAPTER.fullmatch(app.env.docname)
    if chapter and int(chapter[1]):
        next(doctree.findall(nodes.title)).insert(0, nodes.Text(f"{int(chapter[1])}. "))


def mend_markup(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Give parts of the page the names and roles that they lack, for those who hear it read.

    A toggle in the sidebar is named after its chapter, and a code cell's toggle by the text that it shows. The entries
    of a bibliography are the items of their list.
    """
    generate = context["generate_toctree_html"]

    def named(*arguments: Any, **options: Any) -> Any:
        tree = generate(*arguments, **options)
        for toggle in tree.select("li > details > summary"):
            toggle["aria-label"] = f"Sections of {toggle.find_parent('li').a.get_text(strip=True)}"
        return tree

    context["generate_toctree_html"] = named
    if "body" in context:
        body = context["body"].replace('<summary aria-label="Toggle hidden content">', "<summary>")
        context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def keep_mathjax_to_formulas(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Leave MathJax out of pages without formulas; Sphinx links it on every page that has one among its subpages."""
    if 'class="math ' not in context.get("body", ""):
        context["script_files"] = [
            script
            for script in context["script_files"]
            if "mathjax" not in str(script.filename).lower() + script.attributes.get("body", "").lower()
        ]


def count_answers(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give pages with questions the script that counts those answered right."""
    if 'class="rnn2rag-quiz"' in context.get("body", ""):
        app.add_js_file("quiz.js", loading_method="defer")


def remove_strays(app: Sphinx, exception: Exception | None) -> None:
    """Remove what the theme brings and no page uses, and the pages and downloads of sources that are gone."""
    if exception is not None:
        return
    out = Path(app.outdir)
    keep = {Path(app.builder.get_outfilename(name)) for name in (*app.env.found_docs, "search", "index")}
    keep |= {out / "_downloads" / name for _, name in app.env.dlfiles.values()}
    strays = {path for pattern in UNUSED for path in (out / "_static").glob(pattern)}
    strays |= {*out.rglob("*.html"), *(out / "_downloads").glob("*/*")} - keep
    for path in strays:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks."""
    app.add_config_value("rnn2rag_assets", "", "env", str)
    app.add_config_value("comments_config", {}, "", dict)  # Jupyter Book sets it; the extension that reads it is off
    app.connect("config-inited", fingerprint_assets)
    app.connect("builder-inited", copy_mathjax)
    app.connect("doctree-read", number_chapter, priority=100)  # before Sphinx collects the titles
    app.connect("html-page-context", mend_markup, priority=900)  # after the theme has made its functions
    app.connect("html-page-context", keep_mathjax_to_formulas, priority=900)
    app.connect("html-page-context", count_answers)
    app.connect("build-finished", remove_strays)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
