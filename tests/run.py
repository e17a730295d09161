"""Every check, in the order in which a failure is cheapest to see; prints the time of each part.

A part that fails does not hide the next ones. The last line says how many parts passed and failed.
"""

import subprocess
import sys
import time

PARTS = {
    "style": [["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    "doctor": [["rnn2rag", "doctor"]],
    "exercises match their sources": [["rnn2rag", "exercises", "--check"]],
    "book": [["rnn2rag", "book"]],
    "notebooks, afresh": [["rnn2rag", "notebooks", "--check"]],
    "claims": [["rnn2rag", "claims", "--check"]],
    "proofs": [["rnn2rag", "prove"]],
    "tests": [[sys.executable, "-m", "pytest", "--durations=8"]],
}


def main() -> int:
    """Run the parts and return the number that failed."""
    failed = []
    for name, commands in PARTS.items():
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        if any([subprocess.run(command).returncode for command in commands]):
            failed.append(name)
        print(f"== {name}: {'FAILED' if name in failed else 'passed'} in {time.monotonic() - start:.0f} s", flush=True)
    print(f"\nfailed: {', '.join(failed) or 'nothing'}")
    print(f"{len(PARTS) - len(failed)} passed, {len(failed)} failed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
