"""The seams of the architecture are there and in use, thin as they may be."""

from __future__ import annotations

import ast
import gc
import os
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import fingerprint as fingerprints
from scalops.algebra import operators as op
from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.operators import Scan
from scalops.deciding import Decided
from scalops.engine import physical_plan as pp
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Change, Measurements
from scalops.optimizer import cost
from scalops.optimizer.cardinality import estimate
from scalops.optimizer.lowering import lower
from scalops.optimizer.replan import replan
from scalops.options import Options
from scalops.planning import execute, optimize
from scalops.planning import plan as planned
from scalops.table import Table
from tests.engine.plans import Backend, bits, calc, job_of, run, sinks
from tests.engine.sources import WIDTH, WatchedSource

ROOT = Path(__file__).parents[2]


def watched(partitions: int = 6, blocks: int = 3) -> tuple[WatchedSource, Table]:
    """A source that counts, as a table."""
    source = WatchedSource(partitions, blocks)
    return source, Table(Scan(source))


def iterated(t: Table, times: int = 3) -> Any:
    """A loop that reads every record of a table each time."""

    @so.loop({"w": np.zeros(WIDTH)}, range(times))
    def model(env: Any) -> Any:
        return {"w": env["w"] / 2 + t.map(lambda r: r.x * np.tanh(r.x @ env["w"] + 1)).mean()}

    return model


# (a) Partitions are read only through a block iterator that may stream.


@pytest.mark.parametrize("threads", [1, 2])
def test_seam_blocks_are_streamed(threads: int) -> None:
    source, t = watched()
    run([t.sum(lambda r: r.x), t.filter(lambda r: r.k > 9).count()], threads)
    assert all(n % 3 == 0 for n in source.reads.values())
    assert len(source.reads) == 6
    assert source.most <= 3 * threads  # of 18


def test_seam_a_table_that_fits_is_read_once() -> None:
    source, t = watched()
    run([iterated(t, 5)])
    assert source.reads == dict.fromkeys(range(6), 3)


def test_seam_a_table_that_does_not_fit_is_streamed_in_every_iteration() -> None:
    source, t = watched()
    budget = MemoryBudget(1)
    assert bits(run([iterated(t, 5)], 2, budget)) == bits(run([iterated(t, 5)]))
    source, t = watched()
    run([iterated(t, 5)], 2, budget)
    assert source.most <= 6
    assert budget.refused > 0
    assert source.reads[0] == 5 * 3 + 1  # a first block was refused


def test_seam_a_table_may_be_cached_in_part() -> None:
    source, t = watched()
    budget = MemoryBudget(source.bytes // 2 + source.bytes // 12)
    run([iterated(t, 5)], 1, budget)
    times = [n // 3 for n in source.reads.values()]
    assert sorted(times) == [1, 1, 1, 5, 5, 5]


def test_seam_a_partition_that_does_not_fit_leaves_its_share_to_others() -> None:
    source, t = watched()
    plan = planned(job_of(iterated(t)))
    (number,) = [s.number for s in plan.stages if isinstance(s.sink, pp.CacheTable)]
    budget = MemoryBudget(source.bytes // 2 + source.bytes // 12)
    backend = Backend(1, budget, False)
    backend.start(plan)
    info = backend.load(number)
    assert info.cached == 3
    assert budget.held == info.bytes
    backend.stop()


def test_seam_a_stopped_backend_holds_no_block() -> None:
    source, t = watched(2, 2)
    plan = planned(job_of(t, t.repartition(4)))
    backend = Backend(1, None, False)
    backend.start(plan)
    (exchange,) = [s.number for s in plan.stages if isinstance(s.sink, pp.Exchange)]
    gathers = [s.number for s in plan.stages if isinstance(s.sink, pp.Gather)]
    backend.exchange(exchange)
    for gather in gathers:
        backend.fetch(gather, 0)
    assert source.alive > 4
    backend.stop()
    gc.collect()
    assert source.alive == 0


def test_seam_a_prefix_reads_no_more_than_it_needs() -> None:
    source, t = watched()
    (blocks,) = run([t.limit(10).select("k")])
    assert sum(b.rows for b in blocks) == 10
    assert sum(source.reads.values()) == 2  # once to count, once to take


@pytest.mark.parametrize("memory", [1, 3_000_000])
def test_seam_peak_memory_stays_far_below_the_table(memory: int) -> None:
    source, t = watched(8, 3)
    model = iterated(t)
    planned(job_of(model))
    tracemalloc.start()
    try:
        run([model], 1, memory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < source.bytes / 3


# (b) Whoever holds memory asks the budget.


class Asked(MemoryBudget):
    """Remembers who asked."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self.by: dict[str, int] = {}

    def reserve(self, size: int, owner: str, leave: int = 0) -> bool:
        self.by[owner] = self.by.get(owner, 0) + size
        return super().reserve(size, owner)


def test_seam_every_holder_asks_the_budget() -> None:
    source, t = watched()
    budget = Asked()
    run([iterated(t), t.repartition(4).sum(lambda r: r.x)], 2, budget)
    asked = {owner.rstrip("0123456789 "): size for owner, size in budget.by.items()}
    assert set(asked) == {"cache", "exchange", "kernel buffers", "partials of stage"}
    assert 2 * asked["cache"] == asked["exchange"]  # as it comes and as it stays
    assert source.bytes * 0.9 < asked["cache"] < source.bytes * 1.1
    assert asked["partials of stage"] >= WIDTH * 8
    assert budget.held == 0


def test_seam_a_budget_refuses_and_the_plan_does_with_less() -> None:
    source, t = watched(8, 3)
    assert source.bytes > 10_000_000
    budget = Asked(10_000_000)
    found = run([iterated(t)], 2, budget)
    assert budget.refused > 0
    assert bits(found) == bits(run([iterated(t)]))


def test_seam_a_table_in_memory_is_not_counted_again() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, WIDTH))
    budget = Asked(4_000_000)
    run([iterated(so.table({"x": x}))], 1, budget)
    assert sum(n for o, n in budget.by.items() if o.startswith("cache")) == 0


def test_seam_out_of_memory_names_who_needs_what() -> None:
    budget = MemoryBudget(64_000_000)
    budget.require(64_000_000, "join 3")
    with pytest.raises(OutOfMemoryError) as caught:
        budget.require(20_000_000, "exchange 1")
    text = str(caught.value)
    assert text.startswith("exchange 1 needs 20 MB; the budget is 64 MB")
    assert "of which are held: join 3 64 MB" in text
    assert "so.session(memory=...)" in text
    assert isinstance(caught.value, MemoryError)


def test_seam_an_exchange_without_room_takes_to_files() -> None:
    _, t = watched()
    budget = Asked(4_000_000)
    found = run([t.repartition(4).sum(lambda r: r.x)], 1, budget)
    assert budget.spilled > 4_000_000
    assert bits(found) == bits(run([t.repartition(4).sum(lambda r: r.x)]))


def test_seam_sessions_hand_their_memory_to_the_engine() -> None:
    source, t = watched()
    with so.session(memory="2MB", threads=1):
        iterated(t).collect()
    assert source.reads[5] > 3


# (c) Rules that choose ask estimates and costs, whose constants say that they are assumed.


def test_seam_hoisting_asks_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    t = so.table({"x": np.ones(50)})

    @so.loop({"w": 1.0}, range(2))
    def model(env: Any) -> Any:
        return {"w": t.sum(lambda r: np.exp(np.log1p(r.x)) * r.x * env["w"])}

    def fired() -> bool:
        return "hoist_invariants" in [
            f.rule for f in optimize(job_of(model))[1] if isinstance(f.before, op.Loop)
        ]

    assert fired()
    # A machine on which computing costs nothing.
    monkeypatch.setattr(cost, "FLOPS", replace(cost.FLOPS, value=1e30))
    assert not fired()


def test_seam_constants_of_the_cost_model_are_assumed() -> None:
    constants = [v for v in vars(cost).values() if isinstance(v, cost.Constant)]
    assert {c.name for c in constants} >= {"flops", "read", "thread_start"}
    assert {c.provenance for c in constants} == {"assumed"}
    assert all(c.unit and c.value > 0 for c in constants)


def test_seam_estimates_say_how_they_are_known() -> None:
    t = so.table({"x": np.ones(50)})
    assert estimate(t.plan) == cost.Estimate(50, 400, "exact")
    assert estimate(t.limit(7).plan) == cost.Estimate(7, 56, "exact")
    assert estimate(t.filter(lambda r: r.x > 0).plan).provenance == "estimated"
    assert cost.Cost(1) + cost.Cost(2) == cost.Cost(3)
    assert cost.Cost(1) < cost.Cost(2)


# (d) Required and delivered properties decide about exchanges.


def exchanges(t: Table) -> list[pp.Exchange]:
    """The exchanges of a table's plan, as it was written."""
    plan = lower(job_of(t))
    return [s for s in sinks(plan, pp.Exchange) if isinstance(s, pp.Exchange)]


def test_seam_an_exchange_stands_where_properties_are_not_delivered() -> None:
    t = so.table({"x": np.ones(50)})
    assert exchanges(t.filter(lambda r: r.x > 0)) == []
    (one,) = exchanges(t.repartition(4))
    assert one.required == pp.Properties(4, "range")
    assert len(exchanges(t.repartition(4).filter(lambda r: r.x > 0).repartition(4))) == 1
    assert len(exchanges(t.repartition(4).repartition(5))) == 2


@pytest.mark.parametrize(
    ("delivered", "required", "enough"),
    [
        (pp.Properties(), pp.Properties(), True),
        (pp.Properties(4, "range"), pp.Properties(4), True),
        (pp.Properties(4, "range"), pp.Properties(5, "range"), False),
        (pp.Properties(None, "range"), pp.Properties(4, "range"), False),
        (pp.Properties(4, "hash", ("a",)), pp.Properties(4, "hash", ("a",)), True),
        (pp.Properties(4, "hash", ("a",)), pp.Properties(4, "hash", ("b",)), False),
        (pp.Properties(4, "hash", ("a",)), pp.Properties(4, "range"), False),
        (pp.Properties(4, "hash", ("a",), ordered=False), pp.Properties(4), False),
        (
            pp.Properties(4, "range", cached=True),
            pp.Properties(4, "range", ordered=False),
            True,
        ),
    ],
)
def test_seam_delivered_satisfies_required(
    delivered: pp.Properties, required: pp.Properties, enough: bool
) -> None:
    assert delivered.satisfies(required) is enough


def test_seam_a_computed_key_loses_its_layout() -> None:
    source = WatchedSource(2, 1)
    by_k = pp.StoredTable(1, source.schema, pp.Properties(4, "hash", ("k",)))
    k = ex.Column("k", source.schema["k"])
    kept = pp.Compute(by_k, (("k", k), ("j", k)))
    assert kept.delivered == by_k.delivered
    assert pp.Select(kept, calc("less", k, 1.0)).delivered == by_k.delivered
    changed = pp.Compute(by_k, (("k", calc("add", k, 1.0)),))
    assert changed.delivered == pp.Properties(4, "any")


def test_seam_the_exchange_of_the_embedded_backend_repartitions() -> None:
    t = so.table({"x": np.arange(40_000.0)})
    plan = planned(job_of(t.repartition(7)))
    backend = Backend(2, None, False)
    backend.start(plan)
    (number,) = [s.number for s in plan.stages if isinstance(s.sink, pp.Exchange)]
    assert backend.partitions(number) == 1
    backend.exchange(number)
    (gather,) = [s.number for s in plan.stages if isinstance(s.sink, pp.Gather)]
    assert backend.partitions(gather) == 7
    backend.stop()


# (e) The planner thinks again, by a callback.


def test_seam_replan_hears_measurements_and_its_change_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, t = watched()
    heard: list[Measurements] = []
    backends: list[Backend] = []
    started = Backend.start

    def start(backend: Backend, plan: pp.PhysicalPlan) -> None:
        backends.append(backend)
        started(backend, plan)

    monkeypatch.setattr(Backend, "start", start)

    def again(measurements: Measurements) -> Change:
        heard.append(measurements)
        return Change(frozenset(measurements.stage_seconds))

    plain = run([iterated(t, 20)], 2)
    changed = run([iterated(t, 20)], 2, replan=again)
    assert [m.iteration for m in heard] == [1, 3, 7, 15]
    assert all(s > 0 for m in heard for s in m.stage_seconds.values())
    plan = planned(job_of(iterated(t, 20)))
    folds = {s.number for s in plan.stages if isinstance(s.sink, pp.TreeAggregate)}
    assert set(heard[0].stage_seconds) == folds
    assert backends[0].changes == []
    assert backends[1].changes == [Change(frozenset(folds))] * 4
    assert bits(changed) == bits(plain)


def test_seam_an_inline_stage_runs_on_the_calling_thread() -> None:
    source, t = watched()
    used: set[int] = set()
    together = threading.Barrier(2, timeout=20)
    blocks = iter([True] * 2)

    def read(partition: int) -> None:
        used.add(threading.get_ident())
        if next(blocks, False):
            together.wait()  # the first two blocks are read by two threads, or never

    source.on_read = read
    plan = planned(job_of(t.sum(lambda r: r.x)))
    backend = Backend(2, None, False)
    backend.start(plan)
    backend.run_stage(0)
    assert len(used) == 2
    used.clear()
    backend.change(Change(frozenset({0})))
    backend.run_stage(0)
    assert used == {threading.get_ident()}
    backend.stop()


def test_seam_sessions_pass_the_optimizers_replan(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def watch(measurements: Measurements) -> Change | None:
        heard.append(measurements.iteration)
        return replan(measurements)

    monkeypatch.setattr("scalops.planning.replan", watch)
    _, t = watched(2, 1)
    job = job_of(iterated(t, 9))
    execute(job, planned(job), Decided(), Options())
    assert heard == [1, 3, 7]


def test_seam_quick_stages_move_to_the_calling_thread() -> None:
    quick = Measurements(1, {3: 1e-6, 4: 1.0})
    assert replan(quick) == Change(frozenset({3}))
    assert replan(Measurements(1, {4: 1.0})) is None


def test_seam_the_engine_imports_no_optimizer() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("optimizer" in n for n in names), path


# (f) One process runner: test_processes.py.


# (g) Fingerprints and the format's version.

_PROGRAM = """
import sys
import numpy as np
import scalops as so
from scalops.planning import plan
from scalops.algebra.operators import Job

def step(r):
    return 1.0 if r.k > 3 else 2.0

t = so.table({"x": np.arange(12.0).reshape(6, 2), "k": np.arange(6)})
factor = float(sys.argv[1])

@so.loop({"w": np.zeros(2), "s": 0.0}, range(4))
def model(env):
    steps = t.sum(so.udf(step, returns=so.float64))
    return {"w": env["w"] + factor * t.sum(lambda r: r.x), "s": steps}

for job in (Job((model.plan,)), Job((t.filter(lambda r: r.k < factor).plan,))):
    print(plan(job).fingerprint)
"""


def printed(program: Path, factor: str, seed: str) -> list[str]:
    """What the program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(program), factor],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_seam_fingerprints_agree_between_processes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, encoding="utf-8")
    first = printed(program, "2.0", "1")
    assert first == printed(program, "2.0", "2")
    assert len(set(first)) == 2
    assert all(len(f) == 32 and int(f, 16) for f in first)
    assert not set(first) & set(printed(program, "2.5", "1"))


def test_seam_fingerprints_tell_plans_and_data_apart() -> None:
    data = np.arange(30.0)
    other = data.copy()
    other[3] = -1

    def fingerprint(values: Any, factor: float = 2, partitions: int = 3) -> str:
        t = so.table({"x": values}).repartition(partitions)
        return planned(job_of(t.sum(lambda r: r.x * factor))).fingerprint

    first = fingerprint(data)
    assert fingerprint(data.copy()) == first
    changed = [fingerprint(other), fingerprint(data, 3), fingerprint(data, 2, 4)]
    assert len({first, *changed}) == 4


def test_seam_fingerprints_carry_the_formats_version(monkeypatch: pytest.MonkeyPatch) -> None:
    node = so.table({"x": np.arange(3)}).plan
    before = fingerprints.fingerprint(node)
    monkeypatch.setattr(fingerprints, "FORMAT_VERSION", fingerprints.FORMAT_VERSION + 1)
    assert fingerprints.fingerprint(node) != before


# (h) The contract with stages.


def test_seam_the_driver_runs_stages_through_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    verbs = ["start", "bind", "load", "run_stage", "combine", "exchange", "partitions", "fetch"]
    for verb in [*verbs, "commit", "change", "stop"]:
        original = getattr(Backend, verb)

        def recorded(self: Any, *args: Any, _verb: str = verb, _call: Any = original) -> Any:
            calls.append(_verb)
            return _call(self, *args)

        monkeypatch.setattr(Backend, verb, recorded)
    _, t = watched()
    run([iterated(t, 3), t.repartition(3).select("k"), t.limit(5).count()])
    assert set(calls) >= {*verbs, "commit", "stop"}
    assert calls[0] == "start"
    assert calls[-1] == "stop"
    assert calls.count("start") == calls.count("stop") == 1
    assert calls.count("commit") == 3


def test_seam_a_failed_plan_is_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    monkeypatch.setattr(Backend, "stop", lambda self: stopped.append(self))
    source, t = watched()

    def fail(partition: int) -> None:
        raise OSError("gone")

    source.on_read = fail
    with pytest.raises(so.DataError, match="watched cannot be read: gone"):
        run([t.sum("k")], 2)

    def refuse() -> Any:
        raise OSError("no partitions")

    monkeypatch.setattr(source, "partitions", refuse)
    with pytest.raises(OSError, match="no partitions"):
        run([t.sum("k")], 2)
    assert len(stopped) == 2
