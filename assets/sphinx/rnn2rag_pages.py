"""What pages of the book show from the course's own files, so that no author types it twice.

- A page whose text notebook has an edition beside it (NAME.md, NAME.ipynb) is made again when the edition changes.
- ``run-box``: what the last run of the section took, and the edition to download.
- ``scale-table``: what the section's sizes are at both scales, and the memory and the time that were computed for them.
- ``machines-table``: memory and time of every section at both scales.
- ``notebook-status``: what the last run of every section took, a table a chapter.
- ``claims-table``: the claims of every section, with what their seed sweeps gave.
- ``problem-set``: the problems of a chapter's set, from the notebook that students open.
- Terms of the glossary show their definition where they are used.
- An entry of the References names the sections that cite it.
- With `public_address` set in _config.yml, pages can be edited and reported there, notebooks opened in Colab, and links
  that a page gives for OWNER/NAME lead there.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from rnn2rag import plan
from rnn2rag.authoring.claims import SEEDS, recipe_hash
from rnn2rag.authoring.editions import BUDGET, PUBLIC_ADDRESS, package_address
from rnn2rag.authoring.exercises import SECTION
from rnn2rag.checks import Claim

logger = logging.getLogger(__name__)

Cell = str | nodes.Node | list[nodes.Node]  # of a table

GLOSSARY = "chapters/guide/glossary"
HEADING = re.compile(r"^# (.+)$", re.M)
PROBLEM = re.compile(r"Problem (?P<number>\d+): (?P<title>.+)")
FACTS = re.compile(
    r"^(?P<kind>[A-Z][\w ]+)\. Difficulty (?P<difficulty>[1-5]) of 5, "
    r"(?P<minutes>\d+) minutes?, (?P<points>\d+) points?",
    re.M,
)
TERM = re.compile(r'<a class="reference internal" href="[^"#]*#(term-[\w-]+)"(?=[^>]*><span class="xref std std-term")')


class RunBox(SphinxDirective):
    """``run-box``: seconds, memory, device and versions of the section's last run, and links to its notebook."""

    def run(self) -> list[nodes.Node]:
        """Make the box from the edition's metadata. A section without an executed edition is an error."""
        page = self.env.docname
        facts, edition = _facts(self, page), _edition(self.env, page)
        seconds = facts["cpu_seconds"]
        rows = {
            "Computing": f"{seconds:.0f} CPU-seconds" if seconds >= 10 else f"{seconds:.1f} CPU-seconds",
            "Peak memory": _memory(facts),
            "Device": facts["device"],
            "Versions": _versions(facts),
        }
        items = [
            nodes.definition_list_item("", nodes.term(text=term), nodes.definition("", nodes.paragraph(text=value)))
            for term, value in rows.items()
        ]
        links = [
            nodes.paragraph("", "", _download(self.env, edition, "Download this section as a notebook")),
            *_claims_link(self.env),
            *_colab(self.env, edition),
        ]
        return [nodes.container("", nodes.definition_list("", *items), *links, classes=["run-box"])]


class ScaleTable(SphinxDirective):
    """``scale-table``: the sizes of the section at both scales, and what was planned for them."""

    def run(self) -> list[nodes.Node]:
        """Make the table from the stored plans. A section without a plan of today's recipe is an error."""
        found = _planned(self, self.env.docname)
        rows = [
            (nodes.literal(text=what) if what in found["full"]["sizes"] else what, *at)
            for what, *at in plan.rows(found)
        ]
        return [_table(("size", "here", "at full scale"), rows), nodes.paragraph(text=plan.COMPUTED)]


class MachinesTable(SphinxDirective):
    """``machines-table``: for each section memory and time at both scales, with the origin of each figure."""

    def run(self) -> list[nodes.Node]:
        """Make a row for each section that trains something, in the order of the table of contents."""
        rows = []
        for pages in _chapters(self.env).values():
            for page in pages:
                if f"{page}.md" not in plan.stored(Path(self.env.srcdir)):
                    continue
                self.env.note_dependency(str(_edition(self.env, page)))
                facts, found = _facts(self, page), _planned(self, page)
                large = found["full"]
                rows.append(
                    (
                        _link(page),
                        f"{facts['cpu_seconds']:.0f} CPU-s",
                        _memory(facts),
                        plan.size(sum(found["embedded"]["uses"].values())),
                        plan.size(found["measured"]),
                        plan.size(sum(large["uses"].values())),
                        f"about {plan.duration(large['seconds'])}",
                    )
                )
        head = (
            "section",
            "time",
            "memory",
            "its tensors",
            "measured",
            "tensors at full scale",
            f"training on a {plan.GPU}",
        )
        return [_table(head, rows)]


class NotebookStatus(SphinxDirective):
    """``notebook-status``: for each chapter a table of its sections' last runs."""

    def run(self) -> list[nodes.Node]:
        """Make a part of the page for each chapter in the order of the table of contents."""
        self.env.note_dependency(str(Path(self.env.srcdir, "_toc.yml")))
        return [self._chapter(folder, pages) for folder, pages in _chapters(self.env).items()]

    def _chapter(self, folder: str, pages: list[str]) -> nodes.section:
        rows, seconds = [], 0.0
        for page in pages:
            edition, facts = _edition(self.env, page), _facts(self, page)
            self.env.note_dependency(str(edition))
            seconds += facts["cpu_seconds"]
            rows.append(
                (
                    _link(page),
                    f"{facts['cpu_seconds']:.1f}",
                    _memory(facts),
                    "held" if facts["cpu_seconds"] <= BUDGET else "over",
                    facts["device"],
                    _versions(facts),
                    _download(self.env, edition, edition.name),
                )
            )
        rows.append(("Together", f"{seconds:.1f}", "", "", "", "", ""))
        head = ("Section", "CPU-seconds", "Peak memory", f"Budget of {BUDGET:.0f} s", "Device", "Versions", "Notebook")
        return _part(_chapter_title(self.env, folder), Path(folder).name, _table(head, rows))


class ClaimsTable(SphinxDirective):
    """``claims-table``: for each section with claims a table of them, with what the seeds gave."""

    def run(self) -> list[nodes.Node]:
        """Make a part of the page for each chapter, and in it one for each section whose sweep is stored."""
        self.env.note_dependency(str(Path(self.env.srcdir, "_toc.yml")))
        sweeps, parts = _sweeps(self.env), []
        for folder, pages in _chapters(self.env).items():
            made = [self._section(page, *sweeps[page]) for page in pages if page in sweeps]
            if made:
                parts.append(_part(_chapter_title(self.env, folder), Path(folder).name, *made))
        return parts

    def _section(self, page: str, path: Path, stored: dict[str, Any]) -> nodes.section:
        self.env.note_dependency(str(path))
        runs = list(stored["seeds"].values())
        if len(runs) < SEEDS:
            what = f"{path.name} holds {len(runs)} of {SEEDS} seeds"
            raise self.error(f"claims-table: {what}; run `rnn2rag claims {stored['section']}`")
        rows = []
        for key, fields in stored["claims"].items():
            claim, values = Claim(**fields), [run[key] for run in runs]
            held = sum(map(claim.holds, values))
            bounds = [("above", claim.above), ("below", claim.below)]
            rows.append(
                (
                    claim.text,
                    ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None),
                    str(len(values)),
                    *(f"{value:.3g}" for value in (min(values), statistics.median(values), max(values))),
                    ("all" if held == len(values) else f"{held} of {len(values)}")
                    + ("" if claim.is_certain(values) else ", uncertain"),
                )
            )
        title = _title(self.env, page)
        name = f"claims-{path.stem}"
        self.env.get_domain("std").note_hyperlink_target(name, self.env.docname, name, title)
        head = ("Claim", "Has to be", "Seeds", "Least", "Median", "Most", "Held in")
        return _part(_link(page, title), name, _table(head, rows, "book-claims"))


class ProblemSet(SphinxDirective):
    """``problem-set``: the problems of the set that bears the name of the page's folder, and where to get them."""

    def run(self) -> list[nodes.Node]:
        """Make a table and links for each of the set's notebooks as nbgrader released them."""
        name = Path(self.env.docname).parent.name
        released = sorted(Path(self.env.srcdir, "exercises", name).glob("*.ipynb"))
        if not released:
            raise self.error(f"problem-set: there is no notebook in exercises/{name}/; run `make exercises`")
        return [node for path in released for node in self._notebook(path)]

    def _notebook(self, path: Path) -> Iterator[nodes.Node]:
        self.env.note_dependency(str(path))
        source = path.relative_to(self.env.srcdir).as_posix().replace("exercises/", "solutions/").replace("ipynb", "md")
        cells = json.loads(path.read_text(encoding="utf8"))["cells"]
        prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        rows, minutes, points = [], 0, 0
        for part in re.split(r"^## ", prose, flags=re.M):
            problem, facts = PROBLEM.match(part), FACTS.search(part)
            if not problem:
                continue
            if not facts:
                form = "line as `Implement. Difficulty 2 of 5, 15 minutes, 6 points.`"
                raise self.error(f"problem-set: {source}: problem {problem['number']} has no {form}")
            taught = dict.fromkeys(match["section"] for match in SECTION.finditer(part))
            minutes, points = minutes + int(facts["minutes"]), points + int(facts["points"])
            rows.append(
                (
                    f"{problem['number']}. {problem['title'][0].upper()}{problem['title'][1:].replace('`', '')}",
                    facts["kind"].lower(),
                    f"{facts['difficulty']} of 5",
                    facts["minutes"],
                    facts["points"],
                    [_link(page) for page in taught],
                )
            )
        graded = sum(cell["metadata"].get("nbgrader", {}).get("points", 0) for cell in cells)
        if graded != points:
            raise self.error(
                f"problem-set: {source}: the problems name {points} points, its test cells give {graded:g}"
            )
        yield nodes.paragraph(text=f"Problems: {len(rows)}. Together: about {minutes} minutes, {points} points.")
        yield _table(("Problem", "What you do", "Difficulty", "Minutes", "Points", "Taught in"), rows)
        yield nodes.container(
            "",
            nodes.paragraph("", "", _download(self.env, path, "Download the notebook"), classes=["book-button"]),
            *_colab(self.env, path),
            *_colab_install(self.env),
            nodes.paragraph(
                "", "In the course's folder it is ", nodes.literal(text=path.relative_to(self.env.srcdir).as_posix())
            ),
            classes=["book-actions"],
        )


def _edition(env: BuildEnvironment, page: str) -> Path:
    return Path(env.doc2path(page)).with_suffix(".ipynb")


def _facts(directive: SphinxDirective, page: str) -> dict[str, Any]:
    """What the last run of a section took, from its edition's metadata."""
    edition = _edition(directive.env, page)
    facts = json.loads(edition.read_text(encoding="utf8"))["metadata"].get("rnn2rag") if edition.exists() else None
    if facts is None:
        raise directive.error(f"{directive.name}: {edition.name} is missing or was never run; run `make notebooks`")
    return facts


def _memory(facts: dict[str, Any]) -> str:
    return f"{facts['peak_memory'] / 1e6:,.0f} MB"


def _versions(facts: dict[str, Any]) -> str:
    versions = sorted(facts["versions"].items(), key=lambda item: (item[0] != "python", item[0] != "torch", item))
    return ", ".join(f"{name} {version}" for name, version in versions)


def _colab(env: BuildEnvironment, notebook: Path) -> list[nodes.Node]:
    """Return a link that opens a notebook in Colab; nothing without a public address."""
    address = env.config.public_address
    if not address:
        return []
    path = notebook.relative_to(env.srcdir).as_posix()
    target = f"{address.replace('https://github.com', 'https://colab.research.google.com/github')}/blob/main/{path}"
    link = nodes.reference("", "Open in Colab", refuri=target, internal=False)
    return [nodes.paragraph("", "", link, classes=["book-button"])]


def _colab_install(env: BuildEnvironment) -> list[nodes.Node]:
    """Return what to run first in Colab in a notebook that does not begin with it; nothing without an address."""
    if not env.config.public_address:
        return []
    first = nodes.literal(text=f'%pip install "rnn2rag @ {package_address(Path(env.srcdir))}"')
    return [nodes.paragraph("", "In Colab, first run ", first, nodes.Text(" in a cell of its own."))]


def _claims_link(env: BuildEnvironment) -> list[nodes.Node]:
    """Return a link from a section to its claims in the table of all; nothing where it makes none."""
    if env.docname not in (sweeps := _sweeps(env)):
        return []
    path, _ = sweeps[env.docname]
    link = addnodes.pending_xref(
        refdomain="std", reftype="ref", reftarget=f"claims-{path.stem}", refexplicit=True, refdoc=env.docname
    )
    link += nodes.inline(text="The claims of this section, over all seeds")
    return [nodes.paragraph("", "", link)]


def _chapters(env: BuildEnvironment) -> dict[str, list[str]]:
    """The pages that are sections, that is have an edition, by their chapter's folder, in the order of the contents."""
    chapters: dict[str, list[str]] = {}
    for page in _in_order(env.config.external_site_map):
        if _edition(env, page).exists():
            chapters.setdefault(str(Path(page).parent), []).append(page)
    return chapters


def _in_order(site_map: Any) -> Iterator[str]:
    todo = [site_map.root.docname]
    while todo:
        page = todo.pop()
        yield page
        todo += reversed(site_map[page].child_files() if page in site_map else [])


def _title(env: BuildEnvironment, page: str) -> str:
    """A page's title as its source has it."""
    path = Path(env.doc2path(page))
    env.note_dependency(str(path))
    return HEADING.search(path.read_text(encoding="utf8"))[1]


def _chapter_title(env: BuildEnvironment, folder: str) -> str:
    number = int(Path(folder).name.partition("-")[0])
    index = Path(env.srcdir, folder, "index.md")
    title = _title(env, f"{folder}/index") if index.exists() else Path(folder).name
    return f"{number}. {title}" if number else title


def _sweeps(env: BuildEnvironment) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The stored sweeps by the page of their section."""
    paths = sorted(Path(env.srcdir, "assets", "claims").glob("*.json"))
    stored = {path: json.loads(path.read_text(encoding="utf8")) for path in paths}
    return {sweep["section"].removesuffix(".md"): (path, sweep) for path, sweep in stored.items()}


def _part(title: str | nodes.Node, name: str, *content: nodes.Node) -> nodes.section:
    heading = nodes.title("", title) if isinstance(title, str) else nodes.title("", "", title)
    return nodes.section("", heading, *content, ids=[name])


def _link(page: str, text: str = "") -> addnodes.pending_xref:
    """A link to a page, under its title or another text."""
    link = addnodes.pending_xref(refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=bool(text))
    link += nodes.inline(text=text)
    return link


def _download(env: BuildEnvironment, path: Path, text: str) -> addnodes.download_reference:
    target = "/" + path.relative_to(env.srcdir).as_posix()
    return addnodes.download_reference("", "", nodes.inline(text=text), reftarget=target, refdoc=env.docname)


def _planned(directive: SphinxDirective, page: str) -> dict[str, Any]:
    """The stored plan of a section. Raises the directive's error where it is missing or of another recipe."""
    root = Path(directive.env.srcdir)
    directive.env.note_dependency(str(root / plan.STORED))
    found = plan.stored(root).get(f"{page}.md")
    if not found or found["recipe"] != recipe_hash(root / f"{page}.md"):
        raise directive.error(f"{page}.md has no plan of its present recipe: run `rnn2rag plan`")
    return found


def _table(head: Iterable[str], rows: Iterable[Iterable[Cell]], *classes: str) -> nodes.table:
    """A table whose first column names the rows."""
    head = list(head)
    columns = [nodes.colspec(colwidth=1, stub=int(number == 0)) for number in range(len(head))]
    group = nodes.tgroup("", *columns, nodes.thead("", _row(head)), nodes.tbody("", *map(_row, rows)), cols=len(head))
    return nodes.table("", group, classes=["book-data", *classes])


def _row(cells: Iterable[Cell]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        parts = cell if isinstance(cell, list) else [nodes.Text(cell) if isinstance(cell, str) else cell]
        row += nodes.entry("", *(nodes.paragraph("", "", part) for part in parts))
    return row


def check_address(app: Sphinx, config: Config) -> None:
    """Refuse a public address that links could not be made from."""
    config.public_address = config.public_address.rstrip("/")
    if config.public_address and not PUBLIC_ADDRESS.fullmatch(config.public_address):
        form = "https://github.com/OWNER/NAME"
        logger.error("_config.yml: public_address is %r; it has the form %s", config.public_address, form)


def follow_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make a page depend on its edition, where its outputs come from, and on the glossary where it uses terms."""
    edition = _edition(app.env, docname)
    if edition.exists():
        app.env.note_dependency(str(edition))
    if "{term}`" in source[0]:
        app.env.note_dependency(app.env.doc2path(GLOSSARY))


def name_repository(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the repository of the public address in the place of OWNER/NAME, also where it is a part of an address."""
    name = app.config.public_address.removeprefix("https://github.com/")
    if name:
        source[0] = source[0].replace("OWNER/NAME", name).replace("OWNER%2FNAME", quote(name, safe=""))


def define_terms(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put the definition of each term that a page uses at its end, for terms.js to show and for screen readers."""
    used = dict.fromkeys(TERM.findall(context.get("body", "")))
    if not used:
        return
    definitions = {}
    for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        meaning = next(item.findall(nodes.definition))[0].astext()
        definitions |= {name: meaning for term in item.findall(nodes.term) for name in term["ids"]}
    context["body"] = TERM.sub(lambda match: f'{match[0]} aria-describedby="about-{match[1]}"', context["body"])
    context["body"] += "".join(
        f'<span class="book-term" id="about-{name}" role="tooltip" popover="manual">{escape(definitions[name])}</span>'
        for name in used
    )
    app.add_js_file("terms.js", loading_method="defer")


def pages_with_references(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Name the pages whose bibliography says where each entry is cited: any page may have changed that."""
    found = env.get_domain("cite").bibliographies.items()
    return sorted({key.docname for key, bibliography in found if bibliography.list_ == "citation"})


def link_back(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Say under each entry of a full bibliography which sections cite it, with links to the places."""
    cite = app.env.get_domain("cite")
    order = {page: number for number, page in enumerate(_in_order(app.config.external_site_map))}
    for entry in doctree.findall(nodes.citation):
        listed = [citation for citation in cite.citations if citation.bibliography_key.docname == docname]
        keys = {citation.key for citation in listed if citation.citation_id in entry["ids"]}
        places: dict[str, str] = {}  # the first in each page
        for reference in cite.citation_refs:
            if keys & {target.key for target in reference.targets}:
                places.setdefault(reference.docname, reference.citation_ref_id)
        line = nodes.paragraph("", "Cited in ", classes=["book-cited"])
        for number, page in enumerate(sorted(places, key=lambda page: order.get(page, len(order)))):
            uri = f"{app.builder.get_relative_uri(docname, page)}#{places[page]}"
            line += nodes.Text(", " if number else "")
            line += nodes.reference("", app.env.titles[page].astext(), refuri=uri, internal=True)
        if places:
            entry += line


def link_to_source(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Tell the footer where a page can be edited and a mistake reported, where the course has a public address."""
    address = app.config.public_address
    if address and doctree is not None:
        path = Path(app.env.doc2path(page)).relative_to(app.srcdir).as_posix()
        context["edit_address"] = f"{address}/edit/main/{path}"
        context["report_address"] = f"{address}/issues/new?title={quote(f'Mistake in {path}')}"


def read_plainly(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let the search page show excerpts without formulas in LaTeX."""
    if page == "search":
        app.add_js_file("search-text.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the hooks."""
    app.add_config_value("public_address", "", "env", str)
    app.add_config_value("package_address", "", "env", str)
    app.add_directive("run-box", RunBox)
    app.add_directive("scale-table", ScaleTable)
    app.add_directive("machines-table", MachinesTable)
    app.add_directive("notebook-status", NotebookStatus)
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("problem-set", ProblemSet)
    app.connect("config-inited", check_address)
    app.connect("source-read", follow_files)
    app.connect("source-read", name_repository)
    app.connect("env-updated", pages_with_references)
    app.connect("doctree-resolved", link_back)
    app.connect("html-page-context", define_terms)
    app.connect("html-page-context", link_to_source)
    app.connect("html-page-context", read_plainly)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
