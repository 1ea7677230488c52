"""What `scalops whatif` says of other values of the constants: flips, and a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scalops.algebra.figures import seconds_text
from scalops.cli import whatif_plot as plot
from scalops.cli.whatif_lines import (
    Row,
    aligned,
    amount_text,
    as_wide_as_fits,
    brief_text,
    capital,
    machines_text,
    value_text,
    wrapped,
)
from scalops.optimizer.costs.certainty import holds_within
from scalops.optimizer.costs.flips import SPAN, TOLERANCE, Change, Flip
from scalops.optimizer.costs.whatif import answer, changed

if TYPE_CHECKING:
    from scalops.optimizer.costs.integer_plan import Point
    from scalops.optimizer.costs.whatif import SweptPoint
    from scalops.whatif import WhatIf


def flip_lines(found: WhatIf) -> Iterator[str]:
    """By constant, how far it may move."""
    choice = found.answer.choice
    if len(found.answer.points) == 1:
        return
    if choice is None:
        yield "What one constant alone would have to be, for a machine count to be allowed:"
    else:
        yield from wrapped(
            f"{capital(machines_text(choice))}: the decision holds, as long as each constant is"
            f" in these bounds. Beyond, it takes {TOLERANCE:.0%} more than another, or is not"
            " allowed."
        )
    moving = [f for f in found.flips if (f.below or f.above) and not _is_first_load(f)]
    if moving:
        head = ("", "below", "factor", "then", "now", "above", "factor", "then")
        rows = as_wide_as_fits(lambda n: [head, *(_flip_row(found, f, n) for f in moving)])
        yield from aligned(rows, "<>>>>>>>")
    used = {c.why for f in moving for c in (f.below, f.above) if c is not None}
    said = [f"{w[0]}: the {w} is missed" for w in ("deadline", "budget") if w in used]
    yield from wrapped("; ".join(said)) if said else ()
    if any(_is_first_load(f) for f in found.flips):
        two = answer(changed(found.question, "iterations", 2.0)).choice
        then = "none is allowed" if two is None else f"it is {machines_text(two)}"
        yield from wrapped(
            f"K = 1 is a steady iteration. With 2, the first of which loads all, {then}."
        )
    still = [_letter(found, f.symbol) for f in found.flips if not (f.below or f.above)]
    if still:
        verb = "does" if len(still) == 1 else "do"
        yield from wrapped(
            f"{', '.join(still)} {verb} not change it, by whatever factor up to {SPAN:g}."
        )
    yield from _unsure(found)


def _is_first_load(flip: Flip) -> bool:
    """Whether the first iteration's load, which a steady one has not, is what flips."""
    return flip.symbol == "iterations" and flip.above is not None and flip.above.factor == 1


def _unsure(found: WhatIf) -> Iterator[str]:
    """Whether what was measured is known well enough for the decision."""
    spreads = {c.name: c.spread for c in found.constants if c.spread}
    if not spreads or found.answer.choice is None:
        return
    busy = "" if found.program is None else found.program.busy
    if busy:
        yield from wrapped(
            f"Not sure: {busy}, and spreads of one run do not tell how far the next may be."
            " Measure again when it is idle."
        )
        return
    near = [f for f in found.flips if f.symbol in spreads and _reaches(f, spreads[f.symbol])]
    said = "All measured constants may be off by their spreads, and the decision holds."
    if near:
        names = ", ".join(_letter(found, f.symbol) for f in near)
        said = f"Not sure: a flip is within the spread of {names}."
    elif not holds_within(found.answer, spreads):
        names = ", ".join(_letter(found, name) for name in spreads)
        said = f"Not sure: {names} together, each off by its spread, flip it."
    yield from wrapped(said)


def _reaches(flip: Flip, spread: float) -> bool:
    """Whether a constant that is off by its spread passes a flip."""
    factors = [c.factor for c in (flip.below, flip.above) if c is not None and c.factor is not None]
    return any(1 - spread <= factor <= 1 + spread for factor in factors)


def _flip_row(found: WhatIf, flip: Flip, letters: int) -> Row:
    name = flip.symbol
    below, above = _change(name, flip.below, letters), _change(name, flip.above, letters)
    return (_letter(found, name), *below, value_text(name, flip.value), *above)


def _change(name: str, change: Change | None, letters: int) -> Row:
    if change is None:
        return "", "", ""
    factor = "" if change.factor is None else f"x{_three(change.factor)}"
    then = brief_text(change.machines, change.machine_type, letters)
    if change.why in ("deadline", "budget"):
        then += f" {change.why[0]}"
    return value_text(name, change.value), factor, then


def _three(value: float) -> str:
    """Three digits, never a power of ten."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _letter(found: WhatIf, name: str) -> str:
    return next(c.letter for c in found.constants if c.name == name)


def sweep_lines(found: WhatIf) -> Iterator[str]:
    """What is best by the values of one constant."""
    if found.swept is None:
        return
    name, points = found.swept
    # A deadline or a budget says itself what is made least.
    question = changed(found.question, name, points[0].value)
    has_total = name == "iterations" or question.symbols.iterations > 1
    cost = "machine-s" if found.answer.nearest.money is None else "money"
    head = (name, "chosen", "T(N)", *["in all"] * has_total, cost, "fastest", "cheapest")
    least = [None if p.choice is None else question.cost_of(p.choice) for p in points]
    most = max((value for value in least if value is not None), default=0.0)

    def made(letters: int) -> list[Row]:
        bars = ["" if value is None else plot.bar(value, most, 12) for value in least]
        rows = [_swept_row(name, p, has_total, letters) for p in points]
        whole = [(*row, drawn) for row, drawn in zip(rows, bars, strict=True)]
        return [(*head, f"least {question.minimised}"), *whole]

    yield f"the best by {name}"
    yield from aligned(as_wide_as_fits(made), ">" * len(head) + "<")


def _swept_row(name: str, point: SweptPoint, has_total: bool, letters: int) -> Row:
    def brief(own: Point) -> str:
        return brief_text(own.machines, own.machine_type, letters)

    own = point.choice
    if own is None:
        cells = ["none", "", *[""] * has_total, ""]
    else:
        cells = [brief(own), seconds_text(own.seconds)]
        cells += [seconds_text(own.total_seconds)] * has_total + [amount_text(own.cost)]
    return (value_text(name, point.value), *cells, brief(point.fastest), brief(point.cheapest))
