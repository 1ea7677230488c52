"""What the planner picks beside every other setting: is it the best, and by how much not?

    python -m benchmarks.choice [--programs NAME ...] [--rounds N]

Of four programs every setting is run: in this process and on 1 to 4 workers, partial results added
up at the driver or along a tree, invariant tables held or (in this process: workers keep them from
one run to the next) made again, sides of joins sent whole or by hash of their keys. All have the
same bits. The planner knows the program from short runs on samples of its table, and is asked for
many iterations, so that what begins a run is nothing beside them. Goal: an iteration of its pick
takes at most 1.10 times that of the best setting found (medians of later iterations, in turns).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import Any

import numpy as np

import scalops as so
from scalops.algebra.operators import Job
from scalops.deciding import Decided
from scalops.engine.neutral import Neutral
from scalops.engine.physical_plan import CacheTable, PhysicalPlan, TreeAggregate
from scalops.engine.physical_relations import BuildIndex
from scalops.optimizer.costs.choice import Asked, Choice, choose
from scalops.optimizer.costs.meeting import reductions_of
from scalops.optimizer.costs.plan_work import plan_work
from scalops.optimizer.costs.setting import Setting
from scalops.planning import execute, plan
from scalops.profiles import machine
from scalops.sampled_runs import sampled_rates

ITERATIONS, FIRST = 14, 3
ASKED = 10_000  # iterations that the planner is asked for
WORKERS = (0, 1, 2, 3, 4)
ALWAYS, NEVER = 1 << 62, 0


@dataclass(frozen=True)
class Program:
    """A program by name; `make(iterations)` gives its loop anew."""

    name: str
    make: Callable[[int], Any]


def logistic(iterations: int) -> Any:
    """Dense logistic regression over a computed column: cached, or computed in each iteration."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300_000, 40))
    raw = so.table({"x": x, "y": np.sign(x @ rng.normal(size=40))})
    xy = raw.with_columns(x=lambda r: np.log1p(np.abs(r.x)))

    @so.loop({"w": np.zeros(40), "loss": 0.0}, range(iterations))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = xy.map(lambda r: r.y * r.x / (1 + np.exp(margin(r)))).sum()
        env["loss"] = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum()
        env["w"] = env["w"] + 0.1 * gradient / xy.count()
        return env

    return model


def wide_sums(iterations: int) -> Any:
    """Partial results of 2 MB: how they meet is much of what an iteration takes."""
    rng = np.random.default_rng(2)
    t = so.table({"x": rng.normal(size=(20_000, 500))})

    @so.loop(np.zeros((500, 500)), range(iterations))
    def moments(m: Any) -> Any:
        def weight(r: Any) -> Any:
            return 1 / (1 + np.exp(r.x[0] * m[0, 0]))

        return 0.5 * m + t.map(lambda r: weight(r) * np.outer(r.x, r.x)).sum() / t.count()

    return moments


def pagerank(iterations: int) -> Any:
    """A join and a group-by over tables of a loop's state, whose keys stay."""
    rng = np.random.default_rng(3)
    nodes, edges = 100_000, 1_000_000
    links = so.table(
        {"src": rng.integers(0, nodes, edges), "dst": rng.integers(0, nodes, edges)}
    ).cache()
    outs = links.group_by("src").agg(n=so.count())
    start = so.table({"id": np.arange(nodes), "rank": np.full(nodes, 1 / nodes)})

    @so.loop({"pages": start}, range(iterations))
    def ranks(env: Any) -> Any:
        given = (
            env["pages"]
            .join(outs, left_on="id", right_on="src")
            .select("id", share=lambda r: r.rank / r.n)
        )
        sent = links.join(given, left_on="src", right_on="id")
        sums = sent.group_by("dst").agg(s=so.sum("share"))
        pages = start.select("id").join(sums, left_on="id", right_on="dst", how="left")
        return {
            "pages": pages.select("id", rank=lambda r: 0.15 / nodes + 0.85 * so.coalesce(r.s, 0.0))
        }

    return ranks


def joined(iterations: int) -> Any:
    """Examples joined with items whose keys change in each iteration: which way is cheaper?"""
    rng = np.random.default_rng(4)
    rows, items = 400_000, 40_000
    facts = so.table({"k": rng.integers(0, items, rows), "v": rng.normal(size=rows)})
    things = so.table({"id": np.arange(items), "p": rng.normal(size=items)})

    @so.loop({"shift": 0, "s": 0.0}, range(iterations))
    def weights(env: Any) -> Any:
        moved = things.select("p", id=lambda r: (r.id + env["shift"]) % items)
        both = facts.join(moved, left_on="k", right_on="id")
        return {"shift": env["shift"] + 7, "s": both.map(lambda r: r.v * r.p).sum()}

    return weights


PROGRAMS = tuple(Program(f.__name__, f) for f in (logistic, wide_sums, pagerank, joined))


@dataclass(frozen=True)
class Way:
    """A setting by what was decided in it."""

    workers: int
    tree: str
    cached: bool
    whole: bool
    neutral: Neutral

    def __str__(self) -> str:
        where = "in this process" if not self.workers else f"{self.workers} workers, {self.tree}"
        cached = "" if self.cached else ", caches made again"
        return where + cached + ("" if self.whole else ", joins by hash")


def ways(physical: PhysicalPlan) -> list[Way]:
    """Every setting of a plan."""
    sinks = [s.sink for s in physical.stages]
    folds = frozenset(r.stage for r in reductions_of(physical) if not r.only_workers)
    made_again = {s.makes for s in plan_work(physical).stages.values() if not s.is_view}
    caches = [s.number for s in sinks if isinstance(s, CacheTable) and s.number in made_again]
    indexes = [s.number for s in sinks if isinstance(s, BuildIndex) and s.keys]
    reduces = any(isinstance(s, TreeAggregate) for s in sinks)
    made = []
    choices = product(WORKERS, (True, False) if caches else (True,), (True, False))
    for workers, cached, whole in choices:
        if not whole and not (indexes and workers > 1):
            continue
        if not cached and workers:
            continue
        for tree, fan_ins, flat in _trees(workers, folds if reduces else frozenset()):
            held = {} if cached else dict.fromkeys(caches, 0)
            limits = dict.fromkeys(indexes, ALWAYS if whole else NEVER)
            made.append(
                Way(workers, tree, cached, whole, Neutral(workers, fan_ins, flat, held, limits))
            )
    return made


def _trees(
    workers: int, folds: frozenset[int]
) -> Iterator[tuple[str, tuple[int, ...], frozenset[int]]]:
    if workers < 2 or not folds:
        yield "no tree", (2,), frozenset()
        return
    yield "at the driver", (2,), folds
    for fan_in in sorted({2, 3, workers} - {n for n in (3,) if workers < 3}):
        if fan_in <= workers:
            yield f"fan-in {fan_in}", (fan_in,), frozenset()


class Heard:
    """Seconds of iterations, as a listener hears of them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def iteration(
        self, loop: str | None, number: int, scalars: dict[str, float], seconds: float
    ) -> None:
        """Of one more."""
        self.seconds.append(seconds)


class Runs:
    """Runs a plan in any way, in sessions whose workers are there."""

    def __init__(self, sessions: Mapping[int, so.Session]) -> None:
        self._sessions = sessions

    def seconds(self, job: Job, physical: PhysicalPlan, way: Way) -> list[float]:
        """Of the later iterations."""
        session = self._sessions[way.workers]
        workers = session.workers() if way.workers else None
        heard = Heard()
        decided = Decided(way.neutral)
        execute(job, physical, decided, session.options, listener=heard, workers=workers)
        return heard.seconds[FIRST:]


def picked(job: Job, physical: PhysicalPlan, session: so.Session) -> Choice:
    """What the planner chooses."""
    rates = sampled_rates(job, session.options, session.workers())
    cores = len(os.sched_getaffinity(0))
    settings = [
        Setting(max(1, cores // max(1, n)), cores, 8e9 / max(1, n), Neutral(n)) for n in WORKERS
    ]
    work, reduced = plan_work(physical), reductions_of(physical)
    return choose(work, reduced, machine(), settings, Asked(running=True), rates)


def nearest(all_ways: Sequence[Way], choice: Choice) -> Way:
    """The way that runs as was chosen."""
    neutral = choice.setting.neutral
    index = [n for w in all_ways for n in w.neutral.broadcast]
    work = choice.work
    sizes = {s.makes: s.index_bytes for s in work.stages.values() if s.index_bytes}
    whole = all(sizes.get(n, 0.0) <= neutral.broadcast.get(n, ALWAYS) for n in set(index))
    own = [w for w in all_ways if w.workers == neutral.workers and w.cached]
    own = [w for w in own if w.whole == whole] or own
    if len(own) > 1:
        flat = [w for w in own if w.neutral.at_driver]
        same = [w for w in own if w.neutral.fan_ins == neutral.fan_ins[:1] and w not in flat]
        own = (flat if neutral.at_driver else same) or own
    return replace(own[0], neutral=neutral)


def compared(program: Program, runs: Runs, calibration: so.Session, rounds: int) -> float:
    """Print every setting, the best first; the pick's seconds over the best one's."""
    asked = Job((program.make(ASKED).loop_plan,))
    choice = picked(asked, plan(asked), calibration)
    job = Job((program.make(ITERATIONS).loop_plan,))
    physical = plan(job)
    every = ways(physical)
    pick = nearest(every, choice)
    seconds: dict[str, list[float]] = {str(w): [] for w in every}
    by_name = {str(w): w for w in every} | {str(pick): pick}
    seconds.setdefault(str(pick), [])
    for _ in range(rounds):
        for name, way in by_name.items():
            seconds[name] += runs.seconds(job, physical, way)
    found = sorted((median(s), n) for n, s in seconds.items())
    best = found[0][0]
    own = median(seconds[str(pick)])
    print(f"\n{program.name}: {len(found)} settings, the pick is {own / best:.2f} of the best")
    for place, (time, name) in enumerate(found):
        if place < 5 or name == str(pick) or place == len(found) - 1:
            mark = "  <- picked" if name == str(pick) else ""
            print(f"  {place + 1:>3}. {time * 1e3:9.2f} ms  {name}{mark}")
    for decision in choice.decisions:
        print(f"       {decision}")
    return own / best


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run and print; by program, the pick's seconds over the best one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", nargs="+", choices=[p.name for p in PROGRAMS])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    with ExitStack() as stack:
        sessions = {
            n: stack.enter_context(so.session(**({"workers": n} if n else {}))) for n in WORKERS
        }
        runs = Runs(sessions)
        for program in PROGRAMS:
            if given.programs and program.name not in given.programs:
                continue
            ratios[program.name] = compared(program, runs, sessions[2], given.rounds)
    print()
    for name, ratio in ratios.items():
        print(f"{name:<12} pick / best {ratio:5.2f}   (goal 1.10)")
    return ratios


if __name__ == "__main__":
    main()
