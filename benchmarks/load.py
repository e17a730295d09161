"""How long SmolLM2 takes to load: transformers reading the 4-bit file it comes in, against the course's own cache.

Each load runs in a process of its own, the two in turn, so that neither finds the other's memory. Prints each round and
the ratio of the medians.
"""

import argparse
import statistics
import subprocess
import sys
import time

STOCK = """
import transformers
from rnn2rag import catalog
folder = catalog.folder("smollm2")
file = next(folder.glob("*.gguf")).name
transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
"""
OURS = """
import transformers
from rnn2rag import models
models.load("smollm2")
"""


def seconds(program: str) -> float:
    """Wall seconds of a program in a fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Time both loads in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds(OURS)  # converts where that has not happened yet
    empty = statistics.median(seconds("import transformers, torch") for _ in range(rounds))
    stock, ours = [], []
    for number in range(rounds):
        stock.append(seconds(STOCK) - empty)
        ours.append(seconds(OURS) - empty)
        print(f"round {number + 1}: stock {stock[-1]:.2f} s, ours {ours[-1]:.2f} s", flush=True)
    print(f"imports alone {empty:.2f} s, taken off both")
    print(f"ratio: {statistics.median(stock) / statistics.median(ours):.1f}")


if __name__ == "__main__":
    main()
