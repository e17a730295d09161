"""How heavy the pages are and how soon they can be read: this book against the default build of the same pages.

The default is Jupyter Book's own configuration: its theme as it comes, with Font Awesome, the search index on each page
and MathJax. Both builds come from one server on this machine that compresses. What the default fetches from other hosts
is served from here too where an installed package holds it (MathJax); the rest is refused, so it counts nothing: it is
named in the output.

A first view is a new browser's; a next view is that of a reader who comes from the first section. Weights are bytes
over the wire, headers included. Times are first views on "slow 4G" (as in Chromium's developer tools: 1.44 Mbit/s
down, 562 ms a request) and a processor slowed down four times: `text` until something of the page is painted, `read`
until the formulas stand as well.

The last line is `ratio: first F, next N, text T, read R`: the default's median over ours.
"""

import contextlib
import functools
import gzip
import http.server
import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium  # noqa: E402

from rnn2rag.authoring import book, editions  # noqa: E402

KNOWN = "chapters/01-recurrent-networks/recurrent-cell.html"
SLOW_4G = {"offline": False, "latency": 562.5, "downloadThroughput": 1.44e6 / 8, "uploadThroughput": 675e3 / 8}
SLOWER_PROCESSOR = 4
MATHJAX = "https://cdn.jsdelivr.net/npm/mathjax@3/es5"
CONFIG = """title: From RNN to RAG
author: the rnn2rag authors
bibtex_bibfiles: [assets/references.bib]
only_build_toc_files: true
exclude_patterns: ["**.ipynb"]
execute: {execute_notebooks: cache}
parse: {myst_enable_extensions: [amsmath, colon_fence, dollarmath]}
sphinx: {config: {bibtex_reference_style: author_year}}
"""
STANDS = """async () => {
    await window.MathJax?.startup?.promise;
    const formulas = document.querySelector("mjx-container") ? performance.now() : 0;
    const paint = await new Promise((done) => new PerformanceObserver((list) => {
        for (const entry of list.getEntriesByName("first-contentful-paint")) done(entry.startTime);
    }).observe({ type: "paint", buffered: true }));
    return [paint, Math.max(paint, formulas)];
}"""


def main() -> None:
    """Build both, measure every page of both, print a table."""
    ours, default = book.build(ROOT).parent, build_default()
    names = sorted(path.relative_to(ours).as_posix() for path in ours.rglob("*.html"))
    names = [name for name in names if name not in ("index.html", "search.html")]
    refused: set[str] = set()
    with chromium() as browser:
        measured = {}
        for title, site in (("default", default), ("ours", ours)):
            with serve_compressed(site) as address:
                measured[title] = {name: measure(browser, address, name, refused) for name in names}
    columns = ("first, kB", "next, kB", "text, s", "read, s")
    print(f"{len(names)} pages{'':12}" + "".join(f"{column:>12}" for column in columns) + "  slowest to read")
    medians = {}
    for title, pages in measured.items():
        values = list(zip(*pages.values(), strict=True))
        medians[title] = [statistics.median(column) for column in values]
        slowest = max(pages, key=lambda name, pages=pages: pages[name][-1])
        for what, row in (("median", medians[title]), ("worst", [max(column) for column in values])):
            cells = "".join(f"{value:12.1f}" for value in row)
            print(f"{title:10}{what:10}{cells}  {slowest if what == 'worst' else ''}".rstrip())
    print("not counted, of the default:", ", ".join(sorted(refused)) or "nothing")
    ratios = [default / ours for default, ours in zip(medians["default"], medians["ours"], strict=True)]
    print("ratio: " + ", ".join(f"{c.split(',')[0]} {ratio:.2f}" for c, ratio in zip(columns, ratios, strict=True)))


def build_default() -> Path:
    """Build the same pages with Jupyter Book's own configuration; return their folder."""
    tree = ROOT / "_build" / "default"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("chapters", "exercises", "assets"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("intro.md", "_toc.yml"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "_config.yml").write_text(CONFIG, encoding="utf8")
    for source in tree.rglob("*.md"):  # the directive is of this book's own extension
        text = source.read_text(encoding="utf8")
        source.write_text(re.sub(r"```\{run-box\}\n```\n", "", text), encoding="utf8")
    book.fill_cache(editions.sources(tree), tree / "_build" / ".jupyter_cache")
    entry = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", entry, "build", "."], cwd=tree, capture_output=True, encoding="utf8")
    if done.returncode or "Executing notebook" in done.stdout:
        sys.exit(f"the default book was not built as it should\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    shutil.copytree(mathjax, tree / "_build" / "html" / "mathjax@3")
    for page in (tree / "_build" / "html").rglob("*.html"):
        page.write_text(page.read_text(encoding="utf8").replace(MATHJAX, "/mathjax@3"), encoding="utf8")
    return tree / "_build" / "html"


def measure(browser, address: str, name: str, refused: set[str]) -> list[float]:
    """The kB of a first and of a next view of a page, and the seconds until its text and its formulas stand."""
    first, seconds = view(browser.new_context(), address, name, refused, slow=True)
    context = browser.new_context()
    view(context, address, KNOWN, refused)
    after, _ = view(context, address, name, refused)
    return [first / 1e3, after / 1e3, *seconds]


def view(context, address: str, name: str, refused: set[str], slow: bool = False) -> tuple[int, list[float]]:
    """The bytes that a view of a page takes over the wire, and the seconds until its text and its formulas stand."""
    page, weights = context.new_page(), []
    page.on("request", lambda request: request.url.startswith("https:") and refused.add(request.url.split("?")[0]))
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setBlockedURLs", {"urls": ["https://*"]})  # page.route would switch the cache off
    session.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    if slow:
        session.send("Network.emulateNetworkConditions", SLOW_4G)
        session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER_PROCESSOR})
    page.goto(f"{address}/{name}", wait_until="load", timeout=120_000)
    times = page.evaluate(STANDS)
    page.wait_for_load_state("networkidle")
    if slow:
        context.close()
    else:
        page.close()
    return round(sum(weights)), [milliseconds / 1e3 for milliseconds in times]


class _Compressing(http.server.SimpleHTTPRequestHandler):
    """Serves files compressed, to be kept for an hour; fonts and pictures are compressed already."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send one file."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, packed = path.read_bytes(), path.suffix not in (".woff", ".woff2", ".png")
        data = _packed(data) if packed else data
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "max-age=3600")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


_packed = functools.lru_cache(maxsize=None)(gzip.compress)


@contextlib.contextmanager
def serve_compressed(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine alone and yield its address."""
    handler = functools.partial(_Compressing, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


if __name__ == "__main__":
    main()
