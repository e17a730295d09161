"""Check that the learner's plain install works beside Colab's own versions, and changes none of them.

In a temporary folder: an environment with the versions that Colab ships, the package's wheel built from this tree and
installed with its dependencies, what was there compared before and after, `rnn2rag doctor`, and a section's edition run
in an empty folder. It exits with 1 and the reason when one step does not hold. Run it as

    python .ci/learner.py [EDITION.ipynb [TORCH]]

from an environment that has hatchling. Colab ships torch 2.11.0 on Python 3.13. The new environment gets the Python
that runs this, and the torch that requirements.txt pins unless TORCH names another, as in ``torch==2.11.0``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EDITION = ROOT / "chapters" / "01-recurrent-networks" / "recurrent-cell.ipynb"
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
# Runs a notebook as a learner's kernel does; argv: the notebook.
RUN = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
print(sum(cell.cell_type == "code" for cell in notebook.cells), "cells")
"""


def pinned_torch() -> str:
    """Return the line that pins torch in requirements.txt, without its comment."""
    found = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(encoding="utf8"), re.M)
    if not found:
        raise SystemExit("learner: requirements.txt does not pin torch")
    return found.group()


def step(text: str, command: Sequence[str | Path], folder: Path) -> str:
    """Run one step in a folder, print its seconds, and return what it wrote; exit with 1 when it fails."""
    started = time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)
    if done.returncode:
        raise SystemExit(f"learner: {text}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def installed(python: Path, folder: Path, text: str) -> dict[str, str]:
    """Return the versions of all that is installed beside an interpreter."""
    listed = step(text, [python, "-m", "pip", "list", "--format=json"], folder)
    return {item["name"]: item["version"] for item in json.loads(listed)}


def main(argv: Sequence[str]) -> int:
    """Take all the steps."""
    edition = Path(argv[0]).resolve() if argv else EDITION
    torch = argv[1] if len(argv) > 1 else pinned_torch()
    if not edition.exists():
        raise SystemExit(f"learner: there is no {edition}")
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
        build = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
        step("the package's wheel", [*build, "--wheel-dir", folder, ROOT], folder)
        [wheel] = folder.glob("rnn2rag-*.whl")
        step("the package, with its dependencies", [*pip, "install", wheel], folder)
        after = installed(python, folder, "what is there now")

        changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
        if changed:
            raise SystemExit(f"learner: installing the package changed {changed}")
        added = sorted(f"{name} {version}" for name, version in after.items() if name not in before)
        print(f"          changed nothing; added {', '.join(added)}")
        print("         ", step("runtime", [python, "-c", "import rnn2rag; rnn2rag.runtime()"], empty).strip())
        step("models and data", [python.with_name("rnn2rag"), "fetch"], empty)
        print(step("doctor", [python.with_name("rnn2rag"), "doctor"], empty), end="")
        print("         ", edition.name, step("the section", [python, "-c", RUN, edition], empty).strip())
    print(f"{time.monotonic() - started:6.1f} s  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
