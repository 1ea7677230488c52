"""Predicted and measured seconds of an iteration: programs, sizes and numbers of workers.

    python -m benchmarks.prediction [--programs NAME ...] [--workers N ...] [--quick]

Each program is calibrated by short runs on samples of its table (at most three quarters of it) in
this process and on one and two workers; then whole iterations are predicted and measured in this
process and on 1 to 4 workers. Goal: of the predictions on workers the median error at most 15 %,
the 90th percentile at most 35 %. More workers than cores share these.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import scalops as so
from benchmarks.prediction_programs import CASES, Case
from scalops.algebra.operators import Job
from scalops.engine.neutral import Neutral
from scalops.optimizer.costs.prediction import iteration_seconds
from scalops.optimizer.costs.program_rates import ProgramRates
from scalops.optimizer.costs.setting import Setting
from scalops.profiles import machine
from scalops.sampled_runs import sampled_rates

CALIBRATED_ON = 2  # workers
ITERATIONS, FIRST = 12, 2
ROUNDS = 2


@dataclass(frozen=True)
class Point:
    """One setting: seconds of an iteration, predicted and measured."""

    program: str
    size: int
    workers: int
    predicted: float
    spread: float
    measured: float

    @property
    def error(self) -> float:
        """Of the measured time."""
        return self.predicted / self.measured - 1


def setting_of(workers: int) -> Setting:
    """As a session of so many workers of this machine has it."""
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // max(1, workers))
    return Setting(threads, cores, float("inf"), Neutral(workers))


def calibrated(loop: Any, session: so.Session) -> ProgramRates:
    """The rates of a program by short runs on the session's workers and in this process."""
    found = sampled_rates(Job((loop.loop_plan,)), session.options, session.workers())
    if not found.loops:
        raise SystemExit(f"no rates: {found.reason}")
    return found


def measured(loop: Any, sessions: Mapping[int, so.Session]) -> dict[int, float]:
    """The median of whole iterations by workers, in turns."""
    seconds: dict[int, list[float]] = {n: [] for n in sessions}
    for _ in range(ROUNDS):
        for workers, session in sessions.items():
            with session:
                loop.forget()
                found = loop.run().history["seconds"].to_pylist()
            seconds[workers] += found[FIRST:]
    return {n: median(found) for n, found in seconds.items()}


def compared(
    case: Case, size: int, sessions: Mapping[int, so.Session], calibration: so.Session
) -> list[Point]:
    """Calibrate, predict, measure."""
    loop = case.make(size, ITERATIONS)
    rates = calibrated(loop, calibration)
    rows = rates.rows(rates.records)
    found = measured(loop, sessions)
    made = []
    for workers, seconds in found.items():
        said = iteration_seconds(rates, rows, setting_of(workers), machine())
        made.append(Point(case.name, size, workers, said.seconds, said.spread, seconds))
    return made


def table(points: Sequence[Point]) -> str:
    """Predicted and measured, one line for each size of a program."""
    workers = sorted({p.workers for p in points})
    names = ["in process" if n == 0 else f"{n} worker{'s' * (n > 1)}" for n in workers]
    lines = [f"{'ms, predicted / measured':<34}" + "".join(f"{n:>22}" for n in names)]
    for program, size in dict.fromkeys((p.program, p.size) for p in points):
        by_workers = {p.workers: p for p in points if (p.program, p.size) == (program, size)}
        cells = [_cell(by_workers[n]) for n in workers]
        lines.append(f"{program:<22}{size:>12,}" + "".join(f"{c:>22}" for c in cells))
    return "\n".join(lines)


def _cell(point: Point) -> str:
    return f"{point.predicted * 1e3:.1f}/{point.measured * 1e3:.1f} {point.error * 100:+.0f}%"


def errors(points: Sequence[Point]) -> tuple[float, float]:
    """Median and 90th percentile of the errors, without their signs."""
    found = [abs(p.error) for p in points]
    return median(found), quantiles(found, n=10, method="inclusive")[-1]


def summary(points: Sequence[Point]) -> str:
    """Errors of all points on workers, and where they come from."""
    away = [p for p in points if p.workers]
    groups = {"all on workers": away}
    groups |= {f"{n} workers": [p for p in points if p.workers == n] for n in range(5)}
    groups |= {c.name: [p for p in away if p.program == c.name] for c in CASES}
    lines = []
    for name, found in groups.items():
        if len(found) > 1:
            middle, most = errors(found)
            bias = median(p.error for p in found)
            lines.append(
                f"{name:<22} median error {middle:6.1%}, 90th percentile {most:6.1%},"
                f" bias {bias:+6.1%}"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Run and print; the median and the 90th percentile of the errors on workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", nargs="+", choices=[c.name for c in CASES])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", action="store_true", help="the smallest size alone")
    given = parser.parse_args(arguments)
    points: list[Point] = []
    with ExitStack() as stack:
        told = {n: {"workers": n} for n in given.workers}
        # What is not traced is called where it was in the short runs: in the process that folds.
        here: dict[str, Any] = {"folds": "threads", "processes": 0}
        sessions = {n: stack.enter_context(so.session(**here, **own)) for n, own in told.items()}
        calibration = stack.enter_context(so.session(workers=CALIBRATED_ON, **here))
        for case in CASES:
            if given.programs and case.name not in given.programs:
                continue
            for size in case.sizes[:1] if given.quick else case.sizes:
                made = compared(case, size, sessions, calibration)
                print(table(made).splitlines()[-1], flush=True)
                points += made
    print(f"\n{table(points)}\n\n{summary(points)}")
    return errors([p for p in points if p.workers])


if __name__ == "__main__":
    main()
