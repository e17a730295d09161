"""The stored plans of all sections: what each takes at both scales, and what the embedded one held when measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rnn2rag import plan
from rnn2rag.authoring import claims, editions

TOLERANCE = 0.15  # of the computed bytes against the measured ones


def update(root: Path, sources: Sequence[Path]) -> int:
    """Plan sections at both scales, measure the embedded one, print a table and store it.

    Returns the number of sections whose computed bytes are farther than the tolerance from the measured ones. Raises
    UserError for a section that has nothing to plan.
    """
    found, off = plan.stored(root), 0
    print(f"{'section':24} {'computed':>10} {'measured':>10} {'off':>6}   {'full scale':>10}")
    for source in sources:
        recipe = plan.recipe(editions.read(source))
        small, large, held = plan.plan(recipe, "embedded"), plan.plan(recipe, "full"), plan.measure(recipe)
        away = small.bytes / held - 1
        off += abs(away) > TOLERANCE
        row = f"{source.stem:24} {plan.size(small.bytes):>10} {plan.size(held):>10} {away:+6.1%}"
        print(f"{row}   {plan.size(large.bytes):>10}" + "  FAILED" * (abs(away) > TOLERANCE), flush=True)
        found[source.relative_to(root).as_posix()] = {
            "recipe": claims.recipe_hash(source),
            "measured": held,
            "embedded": asdict(small),
            "full": asdict(large),
        }
    (root / plan.STORED).write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf8")
    return off
