"""Kills worker processes while plans run on them: `python -m tests.cluster.chaos`, `make chaos`.

Gradient descent, k-means and PageRank run in turn on three worker processes, which are killed at
times that are drawn by chance. Each run must give the bits of the embedded backend.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any

import numpy as np

import scalops as so
from scalops.session import Session
from tests.engine.plans import bits

WORKERS = 3
HANG_SECONDS = 120.0
SLOWEST_KILL = 1.2  # in the time that a run takes when nobody is killed


class Hang(Exception):
    """A run has taken too long by far."""


def gradient_descent() -> Any:
    """Logistic regression."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60_000, 10))
    t = so.table({"x": x, "y": np.where(x @ rng.normal(size=10) > 0, 1.0, -1.0)})

    @so.loop(np.zeros(10), range(40))
    def model(w: Any) -> Any:
        return w + 0.5 * t.map(lambda r: r.y * r.x / (1 + np.exp(r.y * (r.x @ w)))).mean()

    return model


def k_means() -> Any:
    """Lloyd's algorithm."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60_000, 4)) + rng.integers(0, 5, (60_000, 1))
    t = so.table({"x": x})

    @so.loop({"c": x[:5]}, range(15))
    def model(env: Any) -> Any:
        near = t.with_columns(j=lambda r: np.argmin(((r.x - env["c"]) ** 2).sum(axis=1)))
        means = near.group_by("j").agg(m=so.mean("x"))
        return {"c": means.to_array("m", index="j", size=5, fill=env["c"])}

    return model


def page_rank() -> Any:
    """Ranks in a table of the loop's state."""
    rng = np.random.default_rng(3)
    nodes = 4_000
    edges = so.table(
        {"k": rng.integers(0, nodes, 60_000), "j": (rng.exponential(size=60_000) * 400).astype(int)}
    )
    degrees = edges.group_by("k").agg(d=so.count())
    links = edges.join(degrees, on="k")
    first = so.table({"k": np.arange(nodes), "r": np.full(nodes, 1 / nodes)})

    @so.loop({"ranks": first}, range(12))
    def model(env: Any) -> Any:
        sent = links.join(env["ranks"], on="k").group_by("j").agg(s=so.sum(lambda r: r.r / r.d))
        new = first.select("k").join(sent, left_on="k", right_on="j", how="left")
        return {"ranks": new.select("k", r=lambda r: 0.15 / nodes + 0.85 * so.coalesce(r.s, 0.0))}

    return model


PROGRAMS: tuple[Callable[[], Any], ...] = (gradient_descent, k_means, page_rank)


def result(program: Callable[[], Any]) -> Any:
    """The bits that a program gives here."""
    found = so.collect(program())
    state = vars(found) if isinstance(found, so.Environment) else found
    if not isinstance(state, dict):
        return bits(state)
    return {n: v.to_pydict() if hasattr(v, "to_pydict") else bits(v) for n, v in state.items()}


class Watched:
    """Notes when workers were lost and replaced; as of `EventLog`."""

    def __init__(self) -> None:
        self.killed_at: float | None = None
        self.seconds: list[float] = []  # from a kill to the end of the recovery

    def emit(self, kind: str, **fields: Any) -> None:
        """Take an event of the run."""
        if kind == "recovered" and self.killed_at is not None:
            self.seconds.append(time.monotonic() - self.killed_at)
            self.killed_at = None


@dataclass
class Counts:
    """What has come of the runs."""

    runs: int = 0
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)


class Killer:
    """Kills workers of a session after some seconds, on a thread of its own."""

    def __init__(self, session: Session, watched: Watched, random: Random, most: float) -> None:
        self.kills = 0
        self._watched, self._session = watched, session
        self._count = random.choice((1, 1, 1, 1, 2, WORKERS))
        self._order = random.sample(range(WORKERS), WORKERS)
        self._timer = threading.Timer(random.uniform(0, most), self._kill)
        self._timer.start()

    def _kill(self) -> None:
        workers = self._session.workers()
        assert workers is not None
        alive = workers.hub.workers()
        self._watched.killed_at = time.monotonic()
        for place in self._order[: self._count]:
            if place < len(alive):
                try:
                    os.kill(alive[place].process, signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    continue

    def end(self) -> None:
        """Whatever it has not done it will not do."""
        self._timer.cancel()
        self._timer.join()


def on_alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


def chaos(runs: int, seed: int) -> tuple[Counts, list[float]]:
    """So many runs; what came of them, and the seconds that recoveries took."""
    random, counts, watched = Random(seed), Counts(), Watched()
    with so.session(threads=1, workers=0, processes=0):
        expected = [result(p) for p in PROGRAMS]
    signal.signal(signal.SIGALRM, on_alarm)
    session = so.session(threads=1, workers=WORKERS)
    with session:
        session.events = watched
        usual: list[float] = []
        for program, wanted in zip(PROGRAMS, expected, strict=True):
            result(program)  # which starts the workers
            begin = time.monotonic()
            if result(program) != wanted:
                counts.wrong.append(f"{program.__name__}, nobody killed")
            usual.append(time.monotonic() - begin)
        for number in range(runs):
            which = number % len(PROGRAMS)
            told = f"run {number} of {PROGRAMS[which].__name__}"
            killer = Killer(session, watched, random, SLOWEST_KILL * usual[which])
            signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
            try:
                if result(PROGRAMS[which]) != expected[which]:
                    counts.wrong.append(told)
            except Hang:
                counts.hangs.append(told)
                session.close()
            except so.ScalopsError as error:
                counts.wrong.append(f"{told}: {type(error).__name__}: {error}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                killer.end()
            counts.runs += 1
            counts.kills += killer.kills
            show(f"\r{counts.runs} runs, {counts.kills} kills", end="")
    show("")
    return counts, watched.seconds


def show(text: str, end: str = "\n") -> None:
    """Write to standard output at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def main() -> int:
    """Run, and tell; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begin = time.monotonic()
    counts, seconds = chaos(given.runs, given.seed)
    show(f"runs           {counts.runs}, in {time.monotonic() - begin:.0f} s")
    show(f"kills          {counts.kills}")
    show(f"wrong results  {len(counts.wrong)}")
    show(f"hangs          {len(counts.hangs)}")
    if seconds:
        median, most = float(np.median(seconds)), max(seconds)
        show(f"recoveries     {len(seconds)}: median {median:.2f} s, at most {most:.2f} s")
    for line in (*counts.wrong, *counts.hangs):
        show(f"  {line}")
    return 1 if counts.wrong or counts.hangs else 0


if __name__ == "__main__":
    sys.exit(main())
