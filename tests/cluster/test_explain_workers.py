"""What explain shows of a plan on workers; nothing is started."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.collective import Piece, Ranks, Receive, Send, Span, Spans, combine
from scalops.engine.reduction import leaf_ranges
from tests.test_explain import logistic_regression, opaque, without_noise

SESSION = importlib.import_module("scalops.session")  # so.session hides it
Golden = Callable[[str, str], None]
ROWS = 65536  # of a partition: one block of numbers


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker may be asked for."""
    monkeypatch.setattr(SESSION, "open_workers", None)


def physical(*things: Any, **options: Any) -> str:
    """The physical plan in a session with these options."""
    with so.session(jit=False, **options):
        return without_noise(so.explain(*things, stage="physical", costs=False))


def in_partitions(count: int) -> Any:
    """A table of so many partitions."""
    return so.table({"v": np.zeros(ROWS * count)})


def details(text: str, label: str) -> list[str]:
    """The details of a label, each on one line."""
    shown = json.loads(text)["stages"]["physical"]
    found: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        found.extend(d["text"] for d in node.get("details", []) if d["label"] == label)
        for child in node.get("children", []):
            walk(child)

    walk(shown)
    return found


def shown(thing: Any, label: str, **options: Any) -> list[str]:
    """Those of a plan in a session with these options."""
    with so.session(jit=False, **options):
        return details(so.explain(thing, stage="physical", format="json"), label)


# Golden files.


def test_a_loop_over_a_cached_table(golden: Golden) -> None:
    x, y = np.zeros((200_000, 8)), np.ones(200_000)
    table = so.table({"x": x, "y": y}).map(lambda r: {"x": np.tanh(r.x), "y": r.y})

    @so.loop({"w": np.zeros(8), "n": 0}, range(10))
    def model(env: Any) -> Any:
        gradient = table.map(lambda r: r.x * (r.y - r.x @ env["w"])).sum()
        return {"w": env["w"] + 0.1 * gradient, "n": env["n"] + 1}

    golden("explain/workers_loop.txt", physical(model, workers=3))


def test_a_condition_and_a_small_table(golden: Golden) -> None:
    golden("explain/workers_logistic.txt", physical(logistic_regression(), workers=2))


def test_joins_groups_and_sorts(golden: Golden) -> None:
    left = so.table({"k": np.arange(ROWS * 4), "v": np.zeros(ROWS * 4)})
    names = so.table({"k": np.arange(10), "name": [f"n{i}" for i in range(10)]})
    joined = left.join(names, on="k")
    groups = joined.group_by("name").agg(total=so.sum("v"))
    ordered = left.sort("v").distinct().repartition(8)
    golden("explain/workers_relations.txt", physical(groups, ordered, workers=4))


def test_table_state(golden: Golden) -> None:
    edges = so.table({"src": np.arange(ROWS * 2), "dst": np.arange(ROWS * 2)})
    start = so.table({"id": np.arange(ROWS), "rank": np.ones(ROWS)})

    @so.loop({"ranks": start, "n": 0}, range(5))
    def pagerank(env: Any) -> Any:
        sent = edges.join(env["ranks"], left_on="src", right_on="id")
        ranks = sent.group_by(id="dst").agg(rank=so.sum("rank"))
        return {"ranks": ranks, "n": env["n"] + 1}

    golden("explain/workers_table_state.txt", physical(pagerank, workers=3))


def test_opaque_functions_and_a_deep_tree(golden: Golden) -> None:
    golden("explain/workers_opaque.txt", physical(opaque(), workers=9, fan_in=3))


# The numbers.


def sent_pieces(size: int, fan_in: int, partitions: int, leaves: int) -> dict[int, tuple[Any, int]]:
    """Of each rank to whom it sends how many partial results, by running the programs of all."""
    mail: dict[tuple[int, int], Piece] = {}
    found, ended = {}, {}
    for own in reversed(range(size)):
        ranks = Ranks(own, size, (fan_in,))
        ends = [stop - 1 for _, stop in leaf_ranges(partitions, leaves)]
        spans = Spans([leaves], lambda _, a, b: a + b)
        for i, p in enumerate(ends):
            if ranks.home(p, partitions) == own:
                spans.add(Span(0, 0, i), 1)
        program = combine(ranks, spans, lambda p, _: p, lambda p, _: p)
        answer: Any = None
        try:
            while True:
                ask = program.send(answer)
                if isinstance(ask, Receive):
                    answer = mail[ask.source, own]
                else:
                    assert isinstance(ask, Send)
                    mail[own, ask.to], answer = ask.piece, None
                    found[own] = (str(ask.to), len(ask.piece.header))
        except StopIteration as end:
            ended[own] = end.value
    assert ended == {own: None if own else [leaves] for own in range(size)}
    return found


@pytest.mark.parametrize("partitions", [1, 2, 7, 13, 33])
@pytest.mark.parametrize(("size", "fan_in"), [(3, 2), (3, 4), (5, 3), (6, 2)])
def test_pieces_and_leaves_are_those_that_are_sent(partitions: int, size: int, fan_in: int) -> None:
    total = in_partitions(partitions).sum("v")
    options = {"workers": size, "fan_in": fan_in}
    (leaves,) = shown(total, "leaves", **options)
    (pieces,) = shown(total, "pieces", **options)
    count = int(leaves.split(";")[0])
    assert sum(int(n) for n in re.findall(r": (\d+)", leaves)) == count
    edges = {int(a): (b, int(n)) for a, b, n in re.findall(r"(\d+) → (\w+): (\d+)", pieces)}
    assert edges == sent_pieces(size, fan_in, partitions, count)


@pytest.mark.parametrize("partitions", [1, 5, 16, 33])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_homes_are_those_of_the_ranks(partitions: int, size: int) -> None:
    (home,) = shown(in_partitions(partitions).sum("v"), "home", workers=size)
    listed = re.findall(r"rank (\d+): (?:(\d+)(?:–(\d+))?|none)", home)
    found = [
        [int(rank)] * (int(last or first) - int(first) + 1) for rank, first, last in listed if first
    ]
    whole = [rank for part in found for rank in part]
    assert whole == [Ranks(0, size).home(p, partitions) for p in range(partitions)]


def edges_of(text: str) -> Iterator[tuple[int, int]]:
    """Who sends to whom, of the tree's text."""
    for part in text.partition(": ")[2].split("; "):
        sources, _, to = part.partition(" → ")
        if to != "driver":
            yield from ((int(s), int(to)) for s in sources.split(", "))


@pytest.mark.parametrize(("size", "fan_in"), [(2, 2), (4, 4), (6, 2), (6, 3), (6, 16)])
def test_the_tree_is_that_of_the_ranks(size: int, fan_in: int) -> None:
    (tree,) = shown(in_partitions(1).sum("v"), "tree", workers=size, fan_in=fan_in)
    found = dict(edges_of(tree))
    assert found == {r: Ranks(r, size, (fan_in,)).parent for r in range(1, size)}
    assert tree.endswith("; 0 → driver")


def test_many_ranks_are_shown_in_part() -> None:
    text = physical(in_partitions(3).sum("v"), workers=1000)
    assert "1000, processes of this machine: ranks 0 to 999" in text
    assert len(text) < 3000
    assert max(map(len, text.splitlines())) <= 100


def test_large_values_go_down_the_tree() -> None:
    table = in_partitions(2)
    for width, how in ((10, "80 B an iteration to every worker, from the driver"),
                       (10_000, "80 KB an iteration to every worker, down the tree")):  # fmt: skip
        loop = so.loop(np.zeros(width), range(2))(
            lambda w: w + table.map(lambda r, w=w: r.v + w[0]).sum()
        )
        assert shown(loop, "environment", workers=3) == [how]


def test_flat_or_tree_is_told_with_the_reason() -> None:
    small, large = in_partitions(2).sum("v"), so.table({"x": np.zeros((4, 300, 300))}).sum("x")
    (meet,) = shown(small, "meet", workers=3)
    assert meet.startswith("flat, at the driver: partials of 8 B from 3 workers: ")
    (meet,) = shown(large, "meet", workers=8)
    assert meet.startswith("along the tree: partials of 720 KB from 8 workers: ")
    (meet,) = shown(small, "meet", workers=5, fan_in=2)
    assert meet == "along the tree: the session's fan_in"
    (meet,) = shown(small, "meet", workers=5)
    assert meet.startswith("flat, at the driver: partials of 8 B from 5 workers: ")


def test_why_the_driver_adds_nothing_up_is_told() -> None:
    table = in_partitions(2)
    called = table.map(so.udf(lambda r: r.v, returns=so.float64)).sum()
    (meet,) = shown(called, "meet", workers=3)
    why = "flat, at rank 0, since users' functions add up at the workers"
    assert meet.startswith(f"{why}: partials of 8 B from 3 workers: ")
    (meet,) = shown(called, "meet", workers=3, fan_in=2)
    assert meet == "along the tree: the session's fan_in"
    loops = [
        so.loop(np.float64(i), range(2))(lambda w: w + table.map(lambda r: r.v * w).sum())
        for i in range(2)
    ]
    found = shown(loops, "meet", workers=3)
    assert found
    for meet in found:
        assert meet.startswith("flat, at rank 0, since several loops may fold in one pass: ")
    with so.session(jit=True, workers=3):
        many = table.map(lambda r: np.tanh(r.v) * r.v + np.exp(r.v)).sum()
        (meet,) = details(so.explain(many, stage="physical", format="json"), "meet")
    assert meet.startswith("flat, at rank 0, since the fold is compiled: ")


def test_tables_of_one_title_are_told_apart_by_their_columns() -> None:
    wide = so.table({f"c{i}": [1.0] for i in range(9)})
    total = wide.map(lambda r: sum(r[f"c{i}"] for i in range(8))).sum()
    (home,) = shown(total, "home", workers=2)
    assert home == (
        "memory (c0, c1, c2, c3, … 8 columns), 1 partition; rank 0: 0; 1 of 2 workers has none"
    )


def test_bytes_of_a_filtered_table_are_estimated() -> None:
    table, side = in_partitions(4), so.table({"v": np.arange(100.0)})
    kept = table.filter(lambda r: r.v > 1).cache()
    (_, home) = shown(kept.sum("v"), "home", workers=2)
    assert home.endswith("; at most 1.05 MB a worker (estimated)")
    (all_,) = [w for w in shown(table.join(side, on="v"), "workers", workers=2) if "broadcast" in w]
    assert all_ == "broadcast: all records to every worker, 800 B each (exact)"
    few = side.filter(lambda r: r.v > 1)
    (some,) = [w for w in shown(table.join(few, on="v"), "workers", workers=2) if "broadcast" in w]
    assert some.endswith("800 B each (estimated)")


def test_a_long_side_of_a_join_is_held_by_hash() -> None:
    long = so.table({"v": np.arange(45_000.0), "w": np.zeros((45_000, 200))})
    (_, held, *_) = shown(in_partitions(1).join(long, on="v"), "workers", workers=2)
    by_hash = "by hash of v: each worker the records of its own keys"
    assert held == f"{by_hash}, 36.2 MB a worker (estimated)"
    unknown = so.table({"v": [1.0]}).flat_map(lambda r: [{"v": r.v}, {"v": -r.v}])
    (_, held, *_) = shown(in_partitions(1).join(unknown, on="v"), "workers", workers=2)
    assert held.startswith("broadcast up to ")
    assert held.endswith(f", more {by_hash}")


def test_an_embedded_session_shows_nothing_of_workers() -> None:
    total = in_partitions(2).sum("v")
    text = physical(total)
    assert "workers" not in text
    assert "pieces" not in text
    with so.session(workers=2):
        for stage in ("traced", "logical", "optimized"):
            inside = total.explain(stage=stage)
            with so.session(workers=0):
                assert inside == total.explain(stage=stage)


def test_the_fingerprint_is_that_of_the_embedded_plan() -> None:
    total = in_partitions(2).sum("v")
    assert shown(total, "fingerprint", workers=5) == shown(total, "fingerprint")
