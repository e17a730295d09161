"""A reader's tour: every page of the book as a picture, in light, in dark and on a phone, for eyes to judge.

Writes _build/tour with an index.html that shows them side by side. The last line says how long it took.
"""

import sys
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium, serve  # noqa: E402

from rnn2rag.authoring import book  # noqa: E402

LOOKS = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "is_mobile": True},
}
INDEX = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>A tour of the book</title>
<style>body {{ font-family: system-ui }} img {{ width: 100%; border: 1px solid #888 }} td {{ vertical-align: top }}
table {{ table-layout: fixed; width: 100% }} .phone {{ width: 16% }}</style>
<table><tr><th>light<th>dark<th class="phone">phone{rows}</table></html>
"""


def main() -> None:
    """Take the pictures."""
    site, tour = book.build(ROOT).parent, ROOT / "_build" / "tour"
    pages = sorted(path.relative_to(site) for path in site.rglob("*.html") if path != site / "index.html")
    tour.mkdir(exist_ok=True)
    for old in tour.iterdir():
        old.unlink()
    start = time.monotonic()
    with serve(site) as address, chromium() as browser:
        for look, options in LOOKS.items():
            page = browser.new_context(**options).new_page()
            for path in pages:
                page.goto(f"{address}/{path.as_posix()}")
                page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
                page.screenshot(path=tour / picture(path, look), full_page=True)
    rows = "".join(
        f'<tr><th colspan="3">{escape(path.as_posix())}<tr>'
        + "".join(f'<td><img loading="lazy" src="{picture(path, look)}" alt="{look}">' for look in LOOKS)
        for path in pages
    )
    (tour / "index.html").write_text(INDEX.format(rows=rows), encoding="utf8")
    seconds = time.monotonic() - start
    print(f"{tour / 'index.html'}: {len(pages)} pages in {len(LOOKS)} looks, {seconds:.0f} seconds")


def picture(path: Path, look: str) -> str:
    """The name of a page's picture."""
    return f"{'-'.join(path.with_suffix('').parts)}-{look}.png"


if __name__ == "__main__":
    main()
