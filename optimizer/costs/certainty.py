"""Whether a choice of machines holds where all that was measured is off at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from scalops.optimizer.costs.flips import TOLERANCE
from scalops.optimizer.costs.whatif import Answer, answer, without_trifles


def holds_within(found: Answer, spreads: Mapping[str, float]) -> bool:
    """Whether the choice is kept with all symbols at the ends of their spreads, in every way.

    `spreads` by symbol, relative to its value; none goes below 0. Kept is a choice as for
    `flips.py`: within the limits, and no more than `TOLERANCE` above the best.
    """
    assert found.choice is not None
    question, own = found.question, (found.choice.machines, found.choice.machine_type)
    for signs in product((-1.0, 1.0), repeat=len(spreads)):
        moved = {
            name: max(0.0, getattr(question.symbols, name) * (1 + sign * spread))
            for sign, (name, spread) in zip(signs, spreads.items(), strict=True)
        }
        symbols = without_trifles(replace(question.symbols, **moved))
        there = answer(replace(question, symbols=symbols))
        kept = next(p for p in there.points if (p.machines, p.machine_type) == own)
        best = there.choice
        if best is None or not there.allows(kept):
            return False
        if question.cost_of(kept) > (1 + TOLERANCE) * question.cost_of(best):
            return False
    return True
