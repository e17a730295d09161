"""Check that a section runs by itself beside Colab's own versions, and changes none of them.

In a temporary folder: an environment with the versions that Colab ships, and without the package; the package's wheel,
built from this tree; a section's edition with the wheel's address in its first cell, run in an empty folder with an
empty cache; what was there compared before and after; `rnn2rag doctor`. It exits with 1 and the reason when one step
does not hold, or when the first cell takes two minutes. Run it as

    python .ci/learner.py [SECTION.md [TORCH]]

from an environment that has hatchling, jupytext and pybtex. Colab ships torch 2.11.0 on Python 3.13. The new
environment gets the Python that runs this, and the torch that requirements.txt pins unless TORCH names another, as in
``torch==2.11.0``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECTION = ROOT / "chapters" / "01-recurrent-networks" / "recurrent-cell.md"
LONGEST = 120.0  # seconds of the first cell
# Colab's published package list of 2026-08-19: what the package's dependencies meet there.
COLAB = (
    "ipython==7.34.0",
    "ipykernel==6.17.1",
    "ipywidgets==7.7.1",
    "jupyter_client==7.4.9",
    "notebook==6.5.7",
    "widgetsnbextension==3.6.10",
    "jupyter_core==5.9.1",
    "jupyter_server==2.20.0",
    "traitlets==5.7.1",
    "tornado==6.5.7",
    "pyzmq==26.2.1",
    "nbclient==0.10.4",
    "nbformat==5.11.1",
    "numpy==2.1.3",
    "pandas==2.2.3",
    "pyarrow==18.1.0",
    "matplotlib==3.10.0",
    "pillow==11.3.0",
    "transformers==5.15.0",
    "tokenizers==0.22.2",
    "safetensors==0.8.0",
    "huggingface_hub==1.27.0",
    "datasets==4.0.0",
    "fsspec==2025.3.0",
    "dill==0.3.8",
    "multiprocess==0.70.16",
    "tqdm==4.67.3",
    "requests==2.32.4",
    "psutil==5.9.5",
    "rich==13.9.4",
    "typer==0.27.1",
)
# Runs a notebook as a learner's kernel does, and prints the seconds of its first cell and of all; argv: the notebook.
RUN = """
import sys, time, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
with client.setup_kernel():
    start, seconds = time.monotonic(), []
    for number, cell in enumerate(notebook.cells):
        client.execute_cell(cell, number)
        seconds.append(time.monotonic() - start)
print("".join(output.get("text", "") for output in notebook.cells[0].outputs))
print(seconds[0], seconds[-1])
"""
# At the embedded scale Hugging Face's libraries stay offline.
RUNTIME = """
import rnn2rag, huggingface_hub
rnn2rag.runtime()
assert huggingface_hub.is_offline_mode()
"""


def pinned_torch() -> str:
    """Return the line that pins torch in requirements.txt, without its comment."""
    found = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(encoding="utf8"), re.M)
    if not found:
        raise SystemExit("learner: requirements.txt does not pin torch")
    return found.group()


def step(text: str, command: Sequence[str | Path], folder: Path, **settings: str) -> str:
    """Run one step in a folder, print its seconds, and return what it wrote; exit with 1 when it fails.

    settings: environment variables.
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONNOUSERSITE": "1", **settings}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)
    if done.returncode:
        raise SystemExit(f"learner: {text}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def installed(python: Path, folder: Path, text: str) -> dict[str, str]:
    """Return the versions of all that is installed beside an interpreter."""
    listed = step(text, [python, "-m", "pip", "list", "--format=json"], folder)
    return {item["name"]: item["version"] for item in json.loads(listed)}


def edition_that_installs(section: Path, address: str, into: Path) -> Path:
    """Copy the tree into a folder, with the package's address in its configuration; return the section's edition there.

    This is what an author does who publishes the course: one key, then `make notebooks`, which runs nothing.
    """
    shutil.copytree(ROOT, into, ignore=shutil.ignore_patterns(".*", "_build"))
    config = into / "_config.yml"
    text = config.read_text(encoding="utf8")
    changed, count = re.subn(r"^    (# )?package_address:.*$", f"    package_address: {address}", text, flags=re.M)
    if count != 1:
        raise SystemExit("learner: _config.yml has no line for package_address")
    config.write_text(changed, encoding="utf8")
    sys.path.insert(0, str(ROOT))
    from rnn2rag.authoring import editions, markdown

    source = into / section.relative_to(ROOT)
    editions.rewrite(source, markdown.Library.of(into))
    return editions.edition_path(source)


def main(argv: Sequence[str]) -> int:
    """Take all the steps."""
    section = Path(argv[0]).resolve() if argv else SECTION
    torch = argv[1] if len(argv) > 1 else pinned_torch()
    if not section.exists():
        raise SystemExit(f"learner: there is no {section}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="learner-") as temporary:
        folder = Path(temporary)
        empty = folder / "empty"
        empty.mkdir()
        python = folder / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        step("a new environment", [sys.executable, "-m", "venv", folder / "venv"], folder)
        step(f"Colab's versions, and {torch}", [*pip, "install", torch, *COLAB], folder)
        before = installed(python, folder, "what is there")
        if "rnn2rag" in before:
            raise SystemExit("learner: the package is there before it is installed")
        build = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
        step("the package's wheel", [*build, "--wheel-dir", folder, ROOT], folder)
        [wheel] = folder.glob("rnn2rag-*.whl")
        edition = edition_that_installs(section, wheel.as_uri(), folder / "course")
        alone = {"RNN2RAG_CACHE": str(folder / "cache"), "RNN2RAG_THREADS": "1"}
        *said, seconds = step(edition.name, [python, "-c", RUN, edition], empty, **alone).strip().splitlines()
        first, whole = map(float, seconds.split())
        print(*(f"          {line}" for line in said if line), sep="\n")
        print(f"          its first cell took {first:.1f} s, all cells {whole:.1f} s")
        if first > LONGEST:
            raise SystemExit(f"learner: the first cell took longer than {LONGEST:.0f} s")
        after = installed(python, folder, "what is there now")

        changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
        if changed:
            raise SystemExit(f"learner: installing the package changed {changed}")
        added = sorted(f"{name} {version}" for name, version in after.items() if name not in before)
        print(f"          changed nothing; added {', '.join(added)}")
        print("         ", step("runtime", [python, "-c", RUNTIME], empty).strip())
        step("models and data", [python.with_name("rnn2rag"), "fetch"], empty)
        print(step("doctor", [python.with_name("rnn2rag"), "doctor"], empty), end="")
    print(f"{time.monotonic() - started:6.1f} s  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
