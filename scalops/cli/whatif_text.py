"""What `scalops whatif` prints: at most 80 columns, no colour needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scalops.algebra.figures import rows_text, seconds_text
from scalops.cli import whatif_plot as plot
from scalops.cli.calibrate_command import percent
from scalops.cli.whatif_flips_text import flip_lines, sweep_lines
from scalops.cli.whatif_lines import (
    KEPT,
    Row,
    aligned,
    amount_text,
    as_wide_as_fits,
    capital,
    fits,
    machine_seconds_text,
    machines_text,
    percent_text,
    tree_text,
    value_text,
    wrapped,
)
from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.whatif import alternatives, kink_of, shown_machines, within

if TYPE_CHECKING:
    from scalops.optimizer.costs.integer_plan import Point
    from scalops.optimizer.costs.symbols import Symbols
    from scalops.whatif import Constant, WhatIf

_IS = f"{KEPT}={KEPT}"
_LARGE = 1e7
_SAME = 1e-9  # a part: what differs by rounding alone
_LEAST_PLOTTED = 5  # machine counts


def text(found: WhatIf) -> str:
    """All of it as lines."""
    parts = [
        _symbols(found),
        _recommended(found),
        _table(found),
        _plotted(found),
        _closed(found),
        _types(found),
        _alternatives(found),
        flip_lines(found),
        sweep_lines(found),
    ]
    made = (list(part) for part in parts)
    return "\n\n".join("\n".join(lines) for lines in made if lines)


def brief(found: WhatIf) -> str:
    """The answer in one line."""
    point = found.answer.nearest
    said = machines_text(point)
    if found.answer.choice is None:
        return f"none within the limits; {said} come{'s' * (point.machines == 1)} nearest"
    return f"{said}, {seconds_text(point.seconds)} an iteration"


# What is given.


def _symbols(found: WhatIf) -> Iterator[str]:
    rows = [_symbol(c, found.question.catalog is not None) for c in found.constants]
    yield from aligned([("", "value", "spread", "known by", "what"), *rows], "<>><<")
    if found.question.catalog is not None:
        own = found.question.reference
        name = found.question.catalog.reference if own is None else own.name
        yield ""
        yield from wrapped(
            f"They hold for {name!r}; on the other types of the catalog they are scaled by cores,"
            " memory, disk and network (estimated)."
        )
    program = found.program
    if program is None:
        return
    threads = f"{program.threads} thread{'' if program.threads == 1 else 's'}"
    others = f" Other loops: {', '.join(program.other_loops)}." if program.other_loops else ""
    yield ""
    for note in program.notes:
        yield from wrapped(note)
    about = "" if program.is_counted else "about "
    yield from wrapped(
        f"Loop {program.loop}: {program.runs} short runs, {program.seconds:.1f} s, on parts of"
        f" {program.table} of {about}{rows_text(program.records)} records. A machine is"
        f" {threads} of this one.{others}"
    )


def _symbol(constant: Constant, has_catalog: bool) -> tuple[str, ...]:
    value = constant.value
    if value is None:
        shown = "by type" if has_catalog else "none"
    elif constant.name == "cache" and math.isinf(value):
        shown = "all"
    else:
        shown = value_text(constant.name, value)
    spread = percent(constant.spread) if constant.spread and value else ""
    known = "given" if shown == "by type" else constant.provenance
    return constant.letter, shown, spread, known, constant.about


# What is best.


def _recommended(found: WhatIf) -> Iterator[str]:
    question, answer = found.question, found.answer
    point = answer.nearest
    if answer.choice is None:
        yield from wrapped(f"{capital(answer.reason)}.")
        yield from wrapped(f"{capital(answer.hint)}.") if answer.hint else ()
        yield from wrapped(f"Nearest: {machines_text(point)}, {_said(found, point)}.")
        return
    yield from wrapped(
        f"Use {machines_text(point)}: the least {question.minimised}{_limits(found)}."
    )
    yield from wrapped(f"{capital(_said(found, point))}.")
    if answer.runner_up is not None:
        more = _ratio(question.cost_of(answer.runner_up), question.cost_of(point))
        yield from wrapped(f"Next best: {machines_text(answer.runner_up)}, {more}.")
    for what, other in (("Fastest", answer.fastest), ("Cheapest", answer.cheapest)):
        if other is not point:
            yield from wrapped(f"{what}: {machines_text(other)}, {_said(found, other)}.")
    if answer.at_bound:
        yield from wrapped(
            f"{max(question.machines)} is the most that was asked for; with more it may be better:"
            f" --machines 1..{4 * max(question.machines)}."
        )


def _limits(found: WhatIf) -> str:
    question = found.question
    shown = []
    if question.deadline is not None:
        shown.append(f"the deadline of {seconds_text(question.deadline)}")
    if question.budget is not None:
        shown.append(f"the budget of {question.budget:g}")
    return f" within {' and '.join(shown)}" if shown else ""


def _said(found: WhatIf, point: Point) -> str:
    """What a machine count takes."""
    shown = [f"{seconds_text(point.seconds)} an iteration"]
    if found.question.symbols.iterations > 1:
        shown.append(f"{seconds_text(point.total_seconds)} in all")
    shown.append(machine_seconds_text(point.machine_seconds))
    if point.money is not None:
        shown.append(f"money {amount_text(point.money)}")
    if point.fan_ins:
        shown.append(f"tree {tree_text(point)}")
    regime = "all cached" if point.regime == "cached" else "spilling"
    return f"{', '.join(shown)}; most of it {point.dominant}, {regime}"


def _ratio(other: float, best: float) -> str:
    more = other / best - 1 if best > 0 else 0.0
    return f"{percent_text(more)} more" if more > _SAME else "as good"


# All machine counts.


def _table(found: WhatIf) -> Iterator[str]:
    answer = found.answer
    points = {p.machines: p for p in answer.of_type(answer.nearest.machine_type)}
    shown = [points[n] for n in shown_machines(answer)]
    marks = _marks(found)
    has_money = answer.nearest.money is not None
    has_total = found.question.symbols.iterations > 1
    head = ["", "N", "T(N)", "closed"]
    head += ["in all"] * has_total + ["machine-s"] + ["money"] * has_money
    rows = [(*head, "most of it", "regime")]
    for p in shown:
        cells = [marks.get(p.machines, ""), str(p.machines)]
        cells += [seconds_text(p.seconds), seconds_text(p.closed_seconds)]
        cells += [seconds_text(p.total_seconds)] * has_total + [amount_text(p.machine_seconds)]
        cells += [amount_text(p.money)] if p.money is not None else []
        rows.append((*cells, p.dominant, p.regime))
    has_closed = fits(rows)
    if not has_closed:  # very large numbers: the closed form is left out
        at = head.index("closed")
        rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    yield from aligned(rows, "<" + ">" * (len(rows[0]) - 3) + "<<")
    legend = {">": "chosen", "f": "fastest", "c": "cheapest", "k": "R/M: all cached from here on"}
    used = "".join(marks.get(p.machines, "") for p in shown)
    said = [f"{letter} {what}" for letter, what in legend.items() if letter in used]
    said += ["T(N): a steady iteration", *["closed: by the closed form"] * has_closed]
    yield from wrapped("; ".join(said))


def _marks(found: WhatIf) -> dict[int, str]:
    """Letters for machine counts of the choice's type."""
    answer, made = found.answer, dict[int, str]()
    name = answer.nearest.machine_type
    kink = kink_of(found.question.by_type()[name])
    counts = sorted(p.machines for p in answer.of_type(name))
    first = next((n for n in counts if n >= kink), None) if kink >= counts[0] else None
    marked = [
        (">", None if answer.choice is None else answer.choice),
        ("f", answer.fastest),
        ("c", answer.cheapest),
    ]
    for letter, point in marked:
        if point is not None and point.machine_type == name:
            made[point.machines] = made.get(point.machines, "") + letter
    if first is not None:
        made[first] = made.get(first, "") + "k"
    return made


def _plotted(found: WhatIf) -> Iterator[str]:
    question, answer = found.question, found.answer
    points = answer.of_type(answer.nearest.machine_type)
    if len(points) < _LEAST_PLOTTED:
        return
    # Where nothing is in time, time is what matters.
    is_time = question.minimised == "time" or not within(
        answer.nearest.total_seconds, question.deadline
    )
    values = [(p.machines, p.total_seconds if is_time else p.cost) for p in points]
    what = "time" if is_time else "money" if answer.nearest.money is not None else "machine-seconds"
    which = "an iteration" if question.symbols.iterations == 1 else "all iterations"
    label = seconds_text if is_time else amount_text
    rows = ", on a logarithmic scale" if plot.is_logarithmic([v for _, v in values]) else ""
    yield f"{what} of {which} over machines{rows}"
    at = plot.scale([v for _, v in values])
    yield from plot.over_machines(values, _marks(found), [label(v) for v in at])


# Why.


def _closed(found: WhatIf) -> Iterator[str]:
    answer, question = found.answer, found.question
    name = answer.nearest.machine_type
    own = next(c for c in answer.closed if c.machine_type == name)
    symbols = question.by_type()[name]
    points = answer.of_type(name)
    fastest = min(points, key=lambda p: (p.seconds, p.machines))
    cheapest = min(points, key=lambda p: (float(f"{p.machines * p.seconds:.12g}"), p.seconds))
    rows = [("an iteration", "N", "closed form", "N", "whole machines", "gap")]
    seconds = "" if math.isinf(own.fastest) else f"{_decimals(own.seconds, 3)} s"
    counts = question.machines
    is_asked = [min(counts) <= n <= max(counts) for n in (own.fastest, own.cheapest)]
    gap = _gap(fastest.seconds, own.seconds) if is_asked[0] else ""
    rows.append(
        ("fastest", _real(own.fastest), seconds, str(fastest.machines),
         f"{_decimals(fastest.seconds, 3)} s", gap)
    )  # fmt: skip
    whole = cheapest.machines * cheapest.seconds
    rows.append(
        ("cheapest", _real(own.cheapest), f"{_stripped(own.machine_seconds)} machine-s",
         str(cheapest.machines), f"{_stripped(whole)} machine-s",
         _gap(whole, own.machine_seconds) if is_asked[1] else "")
    )  # fmt: skip
    yield from aligned(rows, "<>>>>>")
    yield from wrapped(_derived(symbols))


def _derived(symbols: Symbols) -> str:
    """Where the closed form's fastest comes from."""
    if closed_form.growth(symbols) == 0:
        return "Nothing grows with the machines (A = B = L = 0): the more, the faster."
    at = closed_form.candidates(symbols)
    wider = closed_form.best_fan_in(symbols)
    enough = "one machine caches" if at.kink <= 1 else "as many cache"
    fan_in = f"e; with L {_real(wider)} is the best" if symbols.level > 0 else "e"
    return (
        f"R/M{_IS}{_real(at.kink)}: {enough} everything. N_b{_IS}{_real(at.cached)}: the"
        f" fastest without loads. N_a{_IS}{_real(at.spilling)}: the fastest with full caches. The"
        f" middle one of the three is taken, 1 at least. Fan-in {fan_in}."
    )


def _real(value: float) -> str:
    """A real machine count: two decimals, unless it is whole."""
    if math.isinf(value) or value >= _LARGE:
        return "any" if math.isinf(value) else amount_text(value)
    if value >= 1000:
        return rows_text(value)
    if value < 0.01:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value - round(value)) < 5e-4 else f"{value:.2f}"


def _decimals(value: float, digits: int) -> str:
    """So many decimals, or four digits of what is small or large."""
    if value >= 1e5:
        return amount_text(value)
    return f"{value:.{digits}f}" if value >= 0.1 or value == 0 else f"{value:.4g}"


def _stripped(value: float) -> str:
    shown = _decimals(value, 2)
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown


def _gap(value: float, closed: float) -> str:
    return percent_text(value / closed - 1) if closed > 0 else ""


def _types(found: WhatIf) -> Iterator[str]:
    """The best of each machine type."""
    if found.question.catalog is None:
        return
    answer = found.answer
    money = ["money"] * (answer.nearest.money is not None)
    head = ("", "type", "N", "T(N)", "in all", "machine-s", *money, "most of it", "regime")
    rows = as_wide_as_fits(lambda n: [head, *(_type_row(found, p, n) for p in answer.best_by_type)])
    yield "each type of machine at its best"
    yield from aligned(rows, "<<" + ">" * (len(head) - 4) + "<<")
    if any(row[0] == "x" for row in rows):
        yield "x: not within the deadline or the budget"


def _type_row(found: WhatIf, point: Point, letters: int) -> Row:
    choice = found.answer.choice
    mark = "" if found.answer.allows(point) else "x"
    if choice is not None and point.machine_type == choice.machine_type:
        mark = ">"
    money = [] if point.money is None else [amount_text(point.money)]
    return (
        mark,
        str(point.machine_type)[:letters],
        str(point.machines),
        seconds_text(point.seconds),
        seconds_text(point.total_seconds),
        amount_text(point.machine_seconds),
        *money,
        point.dominant,
        point.regime,
    )


def _alternatives(found: WhatIf) -> Iterator[str]:
    point = found.answer.nearest
    if point.machines == 1 or point.parts.aggregate == 0:
        return
    ways = alternatives(found.question, point)
    tree, binary, flat, ring = (seconds_text(a.seconds) for a in ways)
    yield from wrapped(
        f"Aggregation on {point.machines} machines: tree {tree_text(point)} {tree}; binary tree"
        f" {binary}; flat, all to one, {flat}; ring {ring} if all of A is bytes (not built)."
    )
