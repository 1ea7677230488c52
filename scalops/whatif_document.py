"""What `so.whatif` found, as plain data: the document of docs/whatif.schema.json.

Numbers that are infinite are null. Seconds are of an iteration where nothing else is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.flips import SPAN, TOLERANCE, Change, Flip
from scalops.optimizer.costs.integer_plan import Point
from scalops.optimizer.costs.whatif import Answer, alternatives, shown_machines

if TYPE_CHECKING:
    from scalops.whatif import Constant, WhatIf

FORMAT = 1


def document(found: WhatIf) -> dict[str, Any]:
    """All of it; `format` is the version of this form."""
    question, answer = found.question, found.answer
    machines = question.machines
    return {
        "format": FORMAT,
        "question": {
            "symbols": {c.name: _constant(c) for c in found.constants},
            "machines": list(machines) if not _is_range(machines) else None,
            "machine_range": [min(machines), max(machines)],
            "objective": question.objective,
            "minimised": question.minimised,
            "deadline": question.deadline,
            "budget": question.budget,
            "program": None if found.program is None else asdict(found.program),
            "catalog": _catalog(found),
        },
        "choice": _point(answer.choice),
        "runner_up": _point(answer.runner_up),
        "nearest": _point(answer.nearest),
        "fastest": _point(answer.fastest),
        "cheapest": _point(answer.cheapest),
        "reason": answer.reason,
        "hint": answer.hint,
        "closed_form": [_closed(answer, i) for i in range(len(answer.closed))],
        "best_by_type": [_point(p) for p in answer.best_by_type],
        "alternatives": [
            {"kind": a.kind, "fan_ins": list(a.fan_ins), "seconds": a.seconds, "built": a.is_built}
            for a in alternatives(question, answer.nearest)
        ],
        "flips": {
            "tolerance": TOLERANCE,
            "span": SPAN,
            "symbols": [_flip(f) for f in found.flips],
        },
        "sweep": None if found.swept is None else _swept(found),
        "shown_machines": list(shown_machines(answer)),
        "points": [_point(p) for p in answer.points],
    }


def _is_range(machines: Sequence[int]) -> bool:
    return max(machines) - min(machines) + 1 == len(set(machines))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _constant(constant: Constant) -> dict[str, Any]:
    """A symbol; `value` null: of a cache, that it holds all; of a price, that nobody knows it."""
    made = asdict(constant)
    del made["name"]
    return made | {"value": _finite(constant.value)}


def _catalog(found: WhatIf) -> dict[str, Any] | None:
    """The types, and the symbols on each; `reference_type` is the one that those given hold for.

    It is the catalog's own `reference`, unless a program was measured on this machine.
    """
    question = found.question
    if question.catalog is None:
        return None
    by_type = question.by_type()
    own = question.reference or question.catalog[question.catalog.reference]
    return {
        "reference": question.catalog.reference,
        "reference_type": asdict(own),
        "types": [
            asdict(t) | {"symbols": {k: _finite(v) for k, v in vars(by_type[t.name]).items()}}
            for t in question.catalog
        ],
    }


def _point(point: Point | None) -> dict[str, Any] | None:
    """A machine count; `closed_seconds` are the closed form's of the same count."""
    if point is None:
        return None
    made = point._asdict()
    made["parts"] = asdict(point.parts)
    made["fan_ins"] = list(point.fan_ins)
    return made | {"dominant": point.dominant, "gap": _finite(point.gap)}


def _closed(answer: Answer, number: int) -> dict[str, Any]:
    """The closed form of a type: real machine counts; null where a count is infinite."""
    own = answer.closed[number]
    symbols = answer.question.by_type()[own.machine_type]
    found = closed_form.candidates(symbols)
    return {k: _finite(v) if isinstance(v, float) else v for k, v in own._asdict().items()} | {
        "kink": _finite(found.kink),
        "cached": _finite(found.cached),
        "spilling": _finite(found.spilling),
        "best_fan_in": _finite(closed_form.best_fan_in(symbols)),
    }


def _flip(flip: Flip) -> dict[str, Any]:
    return {
        "symbol": flip.symbol,
        "value": _finite(flip.value),
        "below": _change(flip.below),
        "above": _change(flip.above),
    }


def _change(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else asdict(change)


def _swept(found: WhatIf) -> dict[str, Any]:
    assert found.swept is not None
    name, points = found.swept
    return {
        "name": name,
        "points": [
            {
                "value": _finite(p.value),
                "choice": _point(p.choice),
                "fastest": _point(p.fastest),
                "cheapest": _point(p.cheapest),
            }
            for p in points
        ],
    }
