"""Reading libsvm and plain text, beside scikit-learn's loader and plain Python.

    python -m benchmarks.reading [--rows N] [--stored N] [--lines N] [--rounds K]

Two files are made from a seed, in a temporary folder. Goal: at most 1.2 x the peer on one thread.
The peers give what they give: `load_svmlight_file` a CSR matrix and labels, `splitlines` a list of
strings, `pyarrow.csv` a column of strings; we give the blocks of a pass, and with `collect()` the
whole table in memory.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from sklearn.datasets import load_svmlight_file

import scalops as so
from benchmarks.measure import Timing, report

FEATURES = 47_236


def write_libsvm(path: Path, rows: int, stored: int) -> None:
    """Records of `stored` ascending indices with values of six digits."""
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="ascii") as file:
        for _ in range(rows):
            gaps = rng.integers(1, FEATURES // stored, stored)
            pairs = zip(np.cumsum(gaps).tolist(), rng.random(stored).tolist(), strict=True)
            label = "+1" if rng.random() < 0.5 else "-1"
            file.write(label + "".join(f" {i}:{v:.6f}" for i, v in pairs) + "\n")


def write_text(path: Path, lines: int) -> None:
    """Lines of eight words on average."""
    rng = np.random.default_rng(1)
    words = np.array([f"word{i}" for i in range(5_000)])
    with open(path, "w", encoding="ascii") as file:
        for count in rng.integers(1, 16, lines).tolist():
            file.write(" ".join(words[rng.integers(0, len(words), count)]) + "\n")


def read_libsvm(path: Path, threads: int) -> Any:
    """A pass that reads labels and features of all records."""
    table = so.read_libsvm(path)
    return so.collect((table.sum("y"), table.sum(lambda r: r.x @ r.x)), threads=threads)


def collect_libsvm(path: Path, threads: int) -> Any:
    """All of it in memory."""
    return so.collect(so.read_libsvm(path), threads=threads)


def load_with_arrow(path: Path) -> Any:
    """Each line as one field."""
    return pacsv.read_csv(
        path,
        pacsv.ReadOptions(column_names=["line"], use_threads=False),
        pacsv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False),
        pacsv.ConvertOptions(column_types={"line": pa.string()}),
    )


def load_with_python(path: Path) -> Any:
    """A list of strings."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read().splitlines()


def collect_text(path: Path, threads: int) -> Any:
    """All lines in memory."""
    return so.collect(so.read_text(path), threads=threads)


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> list[Timing]:
    """Each way once a round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            gc.collect()
            start = perf_counter()
            ways[name]()
            times[name].append(perf_counter() - start)
    return [Timing(n, median(t[1:]), min(t[1:]), max(t[1:])) for n, t in times.items()]


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--stored", type=int, default=75)
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        svm, text = Path(folder, "a.svm"), Path(folder, "a.txt")
        write_libsvm(svm, given.rows, given.stored)
        write_text(text, given.lines)
        ways: dict[str, Callable[[], Any]] = {
            "scikit-learn": partial(load_svmlight_file, str(svm)),
            "pass, 1 thread": partial(read_libsvm, svm, 1),
            "pass, 2 threads": partial(read_libsvm, svm, 2),
            "collect, 1 thread": partial(collect_libsvm, svm, 1),
            "collect, 2 threads": partial(collect_libsvm, svm, 2),
        }
        size = svm.stat().st_size / 1e6
        title = f"libsvm: {given.rows:,} records of {given.stored} stored, {size:.0f} MB"
        timings = measure(ways, given.rounds)
        report(title, timings, "pass, 1 thread", "scikit-learn")
        ratios(timings, "scikit-learn")
        ways = {
            "splitlines": partial(load_with_python, text),
            "pyarrow.csv": partial(load_with_arrow, text),
            "collect, 1 thread": partial(collect_text, text, 1),
            "collect, 2 threads": partial(collect_text, text, 2),
        }
        title = f"text: {given.lines:,} lines, {text.stat().st_size / 1e6:.0f} MB"
        timings = measure(ways, given.rounds)
        report(title, timings, "collect, 1 thread", "splitlines")
        ratios(timings, "splitlines")


def ratios(timings: list[Timing], peer: str) -> None:
    """The time of each way over the peer's."""
    by_name = {t.name: t.seconds for t in timings}
    print("  " + ", ".join(f"{n} {s / by_name[peer]:.2f} x" for n, s in by_name.items()))


if __name__ == "__main__":
    main()
