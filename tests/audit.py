"""Run all cells of a section in this process, as if on a GPU and at the full scale; print what was found as JSON.

python tests/audit.py SOURCE.md: the environment says scale, sizes and caches. The tensors are real ones on the CPU;
those that the section puts on the GPU are marked so (see rnn2rag.pretend).
"""

import json
import os
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

from rnn2rag import pretend
from rnn2rag.authoring import editions


def main(source: Path) -> None:
    """Run the section and print one line of JSON as the last."""
    os.environ["RNN2RAG_DEVICE"] = pretend.NAME
    shell = InteractiveShell.instance()
    shell.compile.get_code_name = lambda raw, code, number: f"<cell {number}>"
    failures = []
    with pretend.Device() as device:
        for number, cell in enumerate(editions.read(source).cells):
            if cell.cell_type == "code":
                result = shell.run_cell(cell.source, store_history=True)
                error = result.error_before_exec or result.error_in_exec
                if error and "raises-exception" not in cell.metadata.get("tags", ()):
                    failures.append(f"cell {number}: {type(error).__name__}: {str(error)[:300]}")
    trace = device.trace
    found = {"failures": failures, "mixed": trace.mixed, "early": trace.early, "waits": trace.waits}
    print(json.dumps(found | {"operations": trace.operations}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
