"""Seed sweeps behind the claims of a section, run outside the book and stored in assets/claims/.

A section's cells tagged `export` or `recipe` make a small program that defines `claims` (a `checks.Claims`) and
`measure(seed)`, which returns a value for each claim. A sweep calls `measure` for several seeds; the stored file
carries a hash of those cells and of the functions of `rnn2rag.built` that they use: a changed recipe is noticed. It
also carries the claims in words, which the book shows beside the values.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rnn2rag import checks
from rnn2rag.authoring import editions, uses
from rnn2rag.errors import UserError

SEEDS = 10


def with_claims(root: Path) -> list[Path]:
    """Return the sources that make claims."""
    return [source for source in editions.sources(root) if _recipe(source)]


def sweep(root: Path, source: Path) -> bool:
    """Run the seeds that a section's stored sweep lacks, one after the other, and store each as it ends.

    Prints a line a seed, then whether each claim is certain. An interrupted sweep goes on where it was; a sweep of
    another recipe is thrown away. Returns whether every claim is certain.
    """
    path, stored, claims = _open(root, source)
    seeds = stored["seeds"]
    lacking = [seed for seed in range(SEEDS) if str(seed) not in seeds]
    for seed, values, seconds in _measured(source, lacking, claims):
        seeds[str(seed)] = values
        stored["seconds"] = round(stored["seconds"] + seconds, 1)
        _save(path, stored)
        measured = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        print(f"{seconds:7.1f} s  {path.stem}, seed {seed}: {measured}", flush=True)
    certain = True
    for key, claim in claims.items():
        values = [run[key] for run in seeds.values()]
        low, high = claim.band(values)
        certain &= claim.is_certain(values)
        verdict = "certain" if claim.is_certain(values) else "UNCERTAIN at the band's edge"
        print(f"  {claim.text}: {low:.4g} to {high:.4g} over {len(values)} seeds, {verdict}")
    return certain


def check(root: Path, source: Path) -> None:
    """Raise UserError unless the sweep is of today's recipe and one of its seeds, run again, lies in the band."""
    path, stored, claims = _open(root, source)
    if len(stored["seeds"]) < SEEDS:
        raise UserError(
            f"{path.relative_to(root)}: the sweep is missing or of another recipe; run `rnn2rag claims {source}`"
        )
    seed = int(hashlib.sha256(stored["recipe"].encode()).hexdigest(), 16) % len(stored["seeds"])
    for _, measured, seconds in _measured(source, [seed], claims):
        for key, claim in claims.items():
            low, high = claim.band([run[key] for run in stored["seeds"].values()])
            if not low <= measured[key] <= high:
                raise UserError(
                    f"{source}: seed {seed} gives {key} = {measured[key]:.4g}, outside {low:.4g} to {high:.4g}"
                )
        print(f"{seconds:7.1f} s  {path.stem}: seed {seed} again, inside every band", flush=True)


def recipe_hash(source: Path) -> str:
    """Return a hash of a section's recipe: its cells, and the functions of rnn2rag.built that they use."""
    recipe, built = _recipe(source), Path(__file__).parents[1] / "built"
    return hashlib.sha256("\0".join([recipe, *uses.built_parts(recipe, built)]).encode()).hexdigest()


def _recipe(source: Path) -> str:
    """The cells of the recipe as one program; empty where a section makes no claim."""
    code = [cell for cell in editions.read(source).cells if cell.cell_type == "code"]
    if not any("recipe" in cell.metadata.get("tags", ()) for cell in code):
        return ""
    return "\n\n".join(cell.source for cell in code if {"recipe", "export"} & set(cell.metadata.get("tags", ())))


def _open(root: Path, source: Path) -> tuple[Path, dict[str, Any], dict[str, checks.Claim]]:
    """The path of a section's stored sweep, its content (emptied where it is of another recipe), and the claims."""
    described = next(_program(source, []))
    path = root / "assets" / "claims" / f"{described['name']}.json"
    claims = {key: checks.Claim(**fields) for key, fields in described["claims"].items()}
    new = {
        "section": source.relative_to(root).as_posix(),
        "recipe": recipe_hash(source),
        "claims": described["claims"],
        "seconds": 0.0,
        "seeds": {},
    }
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf8"))
        if stored["recipe"] == new["recipe"] and stored["section"] == new["section"]:
            return path, stored, claims
    return path, new, claims


def _save(path: Path, stored: dict[str, Any]) -> None:
    """Store a sweep at once: whoever is interrupted leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf8")
    new.replace(path)


def _measured(
    source: Path, seeds: Sequence[int], claims: dict[str, checks.Claim]
) -> Iterator[tuple[int, dict[str, float], float]]:
    if not seeds:
        return
    results = _program(source, seeds)
    next(results)
    for seed, result in zip(seeds, results, strict=False):
        lacking = [key for key in claims if key not in result["values"]]
        if lacking:
            raise UserError(f"{source}: measure({seed}) returns no value for the claim {lacking[0]!r}")
        yield seed, result["values"], result["seconds"]


def _program(source: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Run a section's recipe in a process of its own: first its claims, then the values of each seed, as they come."""
    request = json.dumps({"recipe": _recipe(source), "seeds": list(seeds)})
    command = [sys.executable, "-m", "rnn2rag.authoring.claims"]
    environment = {**os.environ, **editions.ONE_THREAD}
    with (
        tempfile.TemporaryFile("w+", encoding="utf8") as errors,  # a pipe that no one reads would stop the recipe
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            process.stdin.write(request)
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            if process.wait():
                errors.seek(0)
                reason = (errors.read().strip().splitlines() or ["no message"])[-1]
                raise UserError(f"{source}: the recipe failed: {reason}")
        finally:
            process.kill()


def _serve() -> None:
    """The process that runs a recipe: a request on stdin, one line of JSON a result on stdout."""
    request = json.loads(sys.stdin.read())
    results = sys.stdout
    with open(os.devnull, "w", encoding="utf8") as nowhere, contextlib.redirect_stdout(nowhere):
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(request["recipe"], "<recipe>", "exec"), names)  # noqa: S102 (an author's own cells)
        claims: checks.Claims = names["claims"]
        described = {key: vars(claim) for key, claim in claims.claims.items()}
        print(json.dumps({"name": claims.name, "claims": described}), file=results, flush=True)
        for seed in request["seeds"]:
            start = time.perf_counter()
            values = {key: float(value) for key, value in names["measure"](seed).items()}
            print(json.dumps({"values": values, "seconds": time.perf_counter() - start}), file=results, flush=True)


if __name__ == "__main__":
    _serve()
