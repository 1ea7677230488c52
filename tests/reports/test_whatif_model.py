"""The page's cost model, in JavaScript, against the Python one and against plain sums."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.catalog import Catalog, MachineType
from scalops.optimizer.costs.flips import Change, flips
from scalops.optimizer.costs.integer_plan import Point
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.whatif import Question, answer
from tests.reports.model import as_asked, node_says

MANY = 100
GOLDEN = (
    Symbols(1e6, 1e-5, 2e-5, 2.5e5, 0.05),
    Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5),
    Symbols(1e8, 1e-6, 4e-6, 5e6, 5),
    Symbols(1e8, 1e-6, 4e-6, 1e5, 0.5),
)


def _close(found: float | None, wanted: float | None, rel: float = 1e-9) -> bool:
    if wanted is None or math.isinf(wanted):
        return found is None
    return found is not None and math.isclose(found, wanted, rel_tol=rel, abs_tol=1e-300)


def _random_symbols(r: random.Random) -> Symbols:
    def decades(low: float, high: float, otherwise: float = 0.0, often: float = 0.8) -> float:
        return 10 ** r.uniform(low, high) if r.random() < often else otherwise

    return Symbols(
        records=decades(4, 9, 1e6),
        map=decades(-8, -4, 0.0, 0.95),
        load=decades(-8, -4),
        cache=decades(3, 9, math.inf),
        aggregate=decades(-4, 0),
        broadcast=decades(-4, 0, 0.0, 0.5),
        level=decades(-4, 0, 0.0, 0.5),
        iterations=r.choice([1.0, 10.0, 37.5]),
        price=r.choice([None, 0.0, 0.5]),
    )


def _random_question(r: random.Random) -> Question:
    symbols = _random_symbols(r)
    machines = r.choice([range(1, 41), range(1, 81), (1, 2, 4, 8, 16), (7,), (150, 170, 243)])
    catalog = reference = None
    if r.random() < 0.25:
        symbols = replace(symbols, price=None)
        types = [
            MachineType(
                name,
                r.choice([2.0, 4.0, 16.0]),
                10 ** r.uniform(9, 11),
                10 ** r.uniform(8, 10),
                10 ** r.uniform(8, 10),
                price=r.uniform(0.1, 2),
                speed=r.uniform(0.5, 2),
            )
            for name in ("small", "large", "other")
        ]
        catalog = Catalog(tuple(types[:2]), "small")
        reference = r.choice([None, types[2]])
    asked = Question(
        symbols, tuple(machines), r.choice(["time", "cost"]), None, None, catalog, reference
    )
    free = answer(asked)
    times, costs = [p.total_seconds for p in free.points], [p.cost for p in free.points]
    # Some limits are just kept, some cannot be kept.
    deadline = r.choice([None, None, min(times) * r.choice([0.9, 1.01, 1.3, 4.0])]) or None
    budget = r.choice([None, None, min(costs) * r.choice([0.9, 1.01, 1.3, 4.0])]) or None
    return replace(asked, deadline=deadline, budget=budget)


@cache
def _asked() -> list[tuple[Question, dict[str, Any]]]:
    r = random.Random(7)
    questions = [Question(s, (*range(1, 100), *range(100, 501, 20))) for s in GOLDEN]
    questions += [_random_question(r) for _ in range(MANY)]
    return list(zip(questions, node_says([as_asked(q) for q in questions]), strict=True))


def _same_point(found: dict[str, Any], wanted: Point) -> Iterator[bool]:
    yield (found["machines"], found["type"]) == (wanted.machines, wanted.machine_type)
    yield tuple(found["fanIns"]) == wanted.fan_ins
    yield (found["regime"], found["dominant"]) == (wanted.regime, wanted.dominant)
    yield _close(found["seconds"], wanted.seconds)
    yield _close(found["firstSeconds"], wanted.first_seconds)
    yield _close(found["total"], wanted.total_seconds)
    yield _close(found["machineSeconds"], wanted.machine_seconds)
    yield _close(found["money"], wanted.money)
    yield _close(found["closedSeconds"], wanted.closed_seconds)
    for name, value in vars(wanted.parts).items():
        yield _close(found["parts"][name], value)


def test_every_point_is_the_planners() -> None:
    for question, found in _asked():
        wanted = answer(question)
        for one, own in zip(found["points"], wanted.points, strict=True):
            assert all(_same_point(one, own)), (question, one, own)


def test_the_recommended_machines_are_the_planners() -> None:
    kept = 0
    for question, found in _asked():
        wanted = answer(question)
        assert (found["choice"] is None) == (wanted.choice is None), question
        for name in ("nearest", "fastest", "cheapest"):
            assert all(_same_point(found[name], getattr(wanted, name))), (question, name)
        for one, own in zip(found["best"], wanted.best_by_type, strict=True):
            assert all(_same_point(one, own)), question
        kept += wanted.choice is not None
    assert MANY / 2 < kept < MANY  # some deadlines and budgets cannot be kept


def test_the_closed_form() -> None:
    for question, found in _asked():
        most = question.machines[-1]
        for own, s in zip(found["closed"], question.by_type().values(), strict=True):
            wanted: list[float] = []
            for f in (math.e, 3.0):
                wanted += closed_form.fastest(s, f), closed_form.cheapest(s, f)
                wanted.append(closed_form.seconds(s, most, f))
            assert all(map(_close, own, wanted)), (question, own, wanted)


def _same_change(found: dict[str, Any] | None, wanted: Change | None) -> bool:
    if found is None or wanted is None:
        return found is None and wanted is None
    alike = _close(found["value"], wanted.value, 1e-7) and found["why"] == wanted.why
    return alike and (found["machines"], found["type"]) == (wanted.machines, wanted.machine_type)


def test_the_flip_points() -> None:
    moved = 0
    for question, found in _asked():
        wanted = flips(answer(question))
        assert [f["symbol"] for f in found["flips"]] == [f.symbol for f in wanted]
        for one, own in zip(found["flips"], wanted, strict=True):
            for way in ("below", "above"):
                change = getattr(own, way)
                assert _same_change(one[way], change), (question, own.symbol, way, one, own)
                moved += change is not None
    assert moved > MANY


@pytest.mark.parametrize("fan_in", [2, 3, 4, 8])
def test_trees_of_one_fan_in_take_what_their_levels_take(fan_in: int) -> None:
    s = Symbols(1e8, 1e-6, 4e-6, 5e6, 0.5, 0.02, 0.01, iterations=3)
    (found,) = node_says([as_asked(Question(s, tuple(range(1, 101))), str(fan_in))])
    for point in found["points"]:
        n = blocks = point["machines"]
        up, levels = 0.0, []
        while blocks > 1:
            up += s.level + s.aggregate * min(fan_in, blocks)
            blocks = -(-blocks // fan_in)
            levels.append(fan_in)
        assert point["fanIns"] == levels
        steady = s.records / n * s.map + max(0.0, s.records / n - s.cache) * s.load + up
        steady += s.broadcast * math.ceil(math.log2(n))
        assert point["seconds"] == pytest.approx(steady, rel=1e-12)
        once = min(s.records / n, s.cache) * s.load
        assert point["total"] == pytest.approx(3 * steady + once, rel=1e-12)
    least = min(found["points"], key=lambda p: p["total"])
    assert found["choice"]["machines"] == least["machines"]


def test_a_fan_in_of_e_is_the_closed_form() -> None:
    asked = [as_asked(Question(s, tuple(range(1, 501))), "e") for s in GOLDEN]
    for s, found in zip(GOLDEN, node_says(asked), strict=True):
        wanted = [closed_form.seconds(s, n) for n in range(1, 501)]
        assert [p["seconds"] for p in found["points"]] == pytest.approx(wanted, rel=1e-12)
        best = found["choice"]["machines"]
        assert best == 1 + wanted.index(min(wanted))
        assert abs(best - closed_form.fastest(s)) < 1
