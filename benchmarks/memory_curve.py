"""Seconds per iteration as data outgrow memory: measured cold, and what the cost model says.

    python -m benchmarks.memory_curve [--memory BYTES] [--columns N] [--iterations K]
                                      [--times F ...] [--folder FOLDER] [--assumed] [--plots FOLDER]

Logistic regression from Arrow IPC and from Parquet, of 0.25 to 4 times the memory that the session
may take. A table is held in part, so that the curve bends where memory is full and has no step: a
size takes no more beyond the one before it than reading and computing with the added bytes. The
model's rates are those that `scalops calibrate` measures first (assumed ones with `--assumed`).
`--plots docs/images` draws the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scalops as so
from benchmarks import out_of_core
from benchmarks.cold import in_turn
from benchmarks.out_of_core import Data, model_of
from scalops.algebra.figures import bytes_text
from tests.costs.scale_figures import CLOSED, MARK, SIMULATED, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIMES = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
WAYS = {"IPC": ("ours, IPC", so.read_ipc, "data.arrow"),
        "Parquet": ("ours, Parquet", so.read_parquet, "data.parquet")}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Data of `times` the memory; seconds of a later iteration, measured and predicted."""

    times: float
    bytes: int
    measured: float
    predicted: float


@dataclass(frozen=True)
class Step:
    """From one size to the next: seconds that it takes more, and what the bytes explain.

    `added`: the bytes by which the data are more, `streamed` those by which what memory does not
    hold is; each byte is computed with, each streamed one is read at the rate of the disk.
    """

    added: float
    streamed: float
    seconds: float
    explained: float


def predicted(data: Data, memory: int, way: str) -> float:
    """Seconds of a later iteration as `explain` has it."""
    _, read, name = WAYS[way]
    with so.session(memory=memory):
        shown = json.loads(
            model_of(data, read(str(data.path(name)))).explain(stage="physical", format="json")
        )
    return next(seconds for seconds in _loops(shown["stages"]["physical"]))


def _loops(line: Any) -> Iterable[float]:
    if line.get("is_loop"):
        yield float(line["figures"]["seconds"])
    for child in line.get("children", ()):
        yield from _loops(child)


def points(
    folder: Path, memory: int, columns: int, iterations: int, times: Sequence[float]
) -> tuple[dict[str, list[Point]], float]:
    """For each way its points, and bytes/s of the disk: the median over all sizes."""
    found: dict[str, list[Point]] = {way: [] for way in WAYS}
    rates = []
    for factor in times:
        rows = max(1, round(factor * memory / (8 * (columns + 1))))
        data = Data(Path(tempfile.mkdtemp(prefix=f"times-{factor:g}-", dir=folder)), rows, columns)
        try:
            out_of_core.write(data)
            names = ["disk", *(name for name, _, _ in WAYS.values())]
            commands = {name: out_of_core.child(name, data, memory) for name in names}
            cold = {way.name: way for way in in_turn(commands, data.paths(), iterations)}
            rates.append(data.bytes / cold["disk"].typical)
            for way, (name, _, _) in WAYS.items():
                size = 8 * rows * (columns + 1)
                told = predicted(data, memory, way)
                found[way].append(Point(factor, size, cold[name].typical, told))
        finally:
            shutil.rmtree(data.folder)
    return found, sorted(rates)[len(rates) // 2]


def steps(curve: Sequence[Point], memory: int, rate: float) -> list[Step]:
    """What each size takes beyond the one before it, and what its bytes explain."""
    each = min(p.measured / p.bytes for p in curve if p.bytes <= memory)
    found = []
    for before, after in pairwise(curve):
        added = after.bytes - before.bytes
        streamed = max(0, after.bytes - memory) - max(0, before.bytes - memory)
        more = after.measured - before.measured
        found.append(Step(added, streamed, more, added * each + streamed / rate))
    return found


def table(way: str, curve: Sequence[Point], memory: int, rate: float) -> str:
    """A line for each size."""
    lines = [
        f"from {way}",
        f"{'x memory':>9} {'data':>9} {'measured':>10} {'model':>10} {'more by':>10}"
        f" {'bytes explain':>14}",
    ]
    own = [None, *steps(curve, memory, rate)]
    for point, step in zip(curve, own, strict=True):
        shown = (
            f"{point.times:9g} {bytes_text(point.bytes):>9} {point.measured:8.3f} s"
            f" {point.predicted:8.3f} s"
        )
        if step is not None:
            shown += f" {step.seconds:8.3f} s {step.explained:12.3f} s"
        lines.append(shown)
    return "\n".join(lines)


def plot(folder: Path, curves: dict[str, list[Point]]) -> Path:
    """The figure: a panel for each way."""

    def panel(axes: Axes, item: tuple[str, list[Point]]) -> None:
        way, curve = item
        at = [p.times for p in curve]
        axes.plot(at, [p.predicted for p in curve], "-", color=CLOSED, label="cost model")
        axes.plot(at, [p.measured for p in curve], "o", color=SIMULATED, label="measured, cold")
        axes.axvline(1.0, color=MARK, linewidth=0.8, linestyle=":")
        axes.set(
            title=f"from {way}",
            xlabel="data, by the memory that may be taken",
            ylabel="seconds per iteration",
            xlim=(0, None),
            ylim=(0, None),
        )
        axes.legend()

    return figure(folder / "memory-curve.svg", list(curves.items()), panel)


def calibrated(folder: Path) -> dict[str, str]:
    """Measure this machine's rates; the environment in which they are used."""
    environment = {"SCALOPS_PROFILES": str(folder)}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "scalops",
            "calibrate",
            "--only",
            "memory,disk,kernels,readers,overheads",
        ],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return environment


def main(arguments: list[str] | None = None) -> dict[str, list[Point]]:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=600_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--times", type=float, nargs="+", default=list(TIMES))
    parser.add_argument("--folder", type=Path, help="where the files are made, and removed")
    parser.add_argument("--assumed", action="store_true", help="no measured rates")
    parser.add_argument("--plots", type=Path, help="a folder for the figure")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="scalops-memory-curve-", dir=given.folder))
    try:
        if not given.assumed:
            os.environ.update(calibrated(folder))
        curves, rate = points(folder, given.memory, given.columns, given.iterations, given.times)
    finally:
        shutil.rmtree(folder)
    print(f"{bytes_text(given.memory)} of memory; the disk reads {bytes_text(rate)}/s")
    for way, curve in curves.items():
        print(table(way, curve, given.memory, rate))
    if given.plots:
        print(plot(given.plots, curves))
    return curves


if __name__ == "__main__":
    main()
