"""Logistic regression over data larger than the memory it may take, cold in each iteration.

    python -m benchmarks.out_of_core [--rows N] [--columns N] [--memory BYTES] [--iterations K]
                                     [--folder FOLDER] [--ways NAME ...]

6,000,000 x 100 float64 (4.8 GB) are written to the folder (a temporary one if none is named) as raw
numbers, Arrow IPC and Parquet, and removed at the end. Each way is a process; they take turns, and
before each turn the system forgets the pages of all files, cache files too. Ours may hold 1.2 GB.

Beside seconds of an iteration stand: the ratio to the time that reading takes at the rate of the
disk, measured in the same turns (ours reads what it does not hold, others read all); the ratio to
the memmap loop; and the largest anonymous memory, without pages of files, in all and beyond what
the process held before. Goals: ours from IPC at most 1.6 x the disk and 0.85 x memmap, at most
1.25 x the memory given; ours from Parquet at most 0.6 x pyarrow's scan of it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

import scalops as so
from benchmarks.cold import Cold, answer, in_turn, next_word, serve
from scalops.algebra.figures import bytes_text

WRITTEN_ROWS = 20_000  # of a record batch, and of a slice of the loops by hand
GROUP_ROWS = 100_000  # of a group of rows of Parquet
STEP_ROWS = 2_000  # arrays of so many records stay in the processor's cache
THREADS = 4  # of the loops by hand that read: more than there are cores, since they wait
RATE, LAMBDA = 1.0, 1e-4


@dataclass(frozen=True)
class Data:
    """Where the files are: `rows` x `columns` float64, and a label for each row."""

    folder: Path
    rows: int
    columns: int

    @property
    def bytes(self) -> int:
        """Of the numbers."""
        return 8 * self.rows * self.columns

    def path(self, name: str) -> Path:
        """Of one of the files."""
        return self.folder / name

    def paths(self) -> list[Path]:
        """All of them."""
        return sorted(self.folder.iterdir())

    def slices(self) -> list[tuple[int, int]]:
        """Ranges of rows that are read at once."""
        starts = range(0, self.rows, WRITTEN_ROWS)
        return [(lo, min(lo + WRITTEN_ROWS, self.rows)) for lo in starts]


def write(data: Data) -> None:
    """The same records as raw numbers, Arrow IPC and Parquet, from a seed."""
    rng = np.random.default_rng(7)
    truth = rng.normal(size=data.columns)
    schema = pa.schema([("x", pa.list_(pa.float64(), data.columns)), ("y", pa.float64())])
    parquet_path = data.path("data.parquet")
    batches: list[pa.RecordBatch] = []
    with (
        open(data.path("x.raw"), "wb") as x_file,
        open(data.path("y.raw"), "wb") as y_file,
        pa.OSFile(str(data.path("data.arrow")), "wb") as sink,
        pa.ipc.new_file(sink, schema) as ipc,
        pa.parquet.ParquetWriter(parquet_path, schema, use_dictionary=False) as parquet,
    ):
        for lo, hi in data.slices():
            x = rng.normal(size=(hi - lo, data.columns))
            y = np.where(x @ truth + rng.normal(size=hi - lo) > 0, 1.0, -1.0)
            x.tofile(x_file)
            y.tofile(y_file)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), data.columns)
            batches.append(pa.record_batch([vectors, pa.array(y)], schema=schema))
            ipc.write_batch(batches[-1])
            if hi == data.rows or sum(map(len, batches)) >= GROUP_ROWS:
                parquet.write_table(pa.Table.from_batches(batches), row_group_size=GROUP_ROWS)
                batches.clear()


# Ours.


def model_of(data: Data, table: so.Table) -> Any:
    """Gradient descent until its callback ends it."""
    rows = data.rows

    @so.loop({"w": np.zeros(data.columns), "loss": 0.0}, lambda env: env["loss"] >= 0)
    def model(env: Any) -> Any:
        margin = table.map(lambda r: r.y * (r.x @ env["w"]))
        loss = margin.map(lambda m: np.logaddexp(0.0, -m)).sum()
        gradient = table.map(lambda r: r.x * (-r.y / (1 + np.exp(r.y * (r.x @ env["w"]))))).sum()
        return {
            "w": env["w"] - RATE * (gradient / rows + LAMBDA * env["w"]),
            "loss": loss / rows,
        }

    return model


def ours(data: Data, memory: int, read: Callable[[str], so.Table], name: str) -> None:
    """A loop whose callback waits for the parent's word: it holds what it can from turn to turn."""
    model = model_of(data, read(str(data.path(name))))
    answer(None)
    if next_word() != "go":
        return
    begin = perf_counter()

    def done(iteration: int, env: Any) -> bool:
        nonlocal begin
        answer(perf_counter() - begin)
        goes_on = next_word() == "go"
        begin = perf_counter()
        return goes_on

    with so.session(memory=memory):
        found = model.run(on_iteration=done)
    answer([*found.env["w"].tolist(), float(found.env["loss"])])


# By hand.


class Descent:
    """Gradient descent by hand; `fold` gives gradient and loss over all records."""

    def __init__(self, data: Data, fold: Callable[[Any], tuple[Any, float]]) -> None:
        self._rows, self._fold = data.rows, fold
        self.w, self.loss = np.zeros(data.columns), 0.0

    def step(self) -> None:
        """One iteration."""
        gradient, loss = self._fold(self.w)
        self.w = self.w - RATE * (gradient / self._rows + LAMBDA * self.w)
        self.loss = loss / self._rows

    def result(self) -> list[float]:
        """What `ours` gives."""
        return [*self.w.tolist(), self.loss]


def block_fold(x: Any, y: Any, w: Any, gradient: Any) -> float:
    """Adds a block's gradient, STEP_ROWS at a time; its loss."""
    loss = 0.0
    for lo in range(0, len(y), STEP_ROWS):
        own, labels = x[lo : lo + STEP_ROWS], y[lo : lo + STEP_ROWS]
        margin = labels * (own @ w)
        loss += float(np.logaddexp(0.0, -margin).sum())
        gradient += (-labels / (1 + np.exp(margin))) @ own
    return loss


def over(blocks: Iterator[tuple[Any, Any]], w: Any) -> tuple[Any, float]:
    """Gradient and loss over blocks."""
    gradient, loss = np.zeros(len(w)), 0.0
    for x, y in blocks:
        loss += block_fold(x, y, w, gradient)
    return gradient, loss


def memmap(data: Data) -> None:
    """`numpy.memmap`, slice by slice, on one thread."""
    y = np.fromfile(data.path("y.raw"))

    def fold(w: Any) -> tuple[Any, float]:
        x = np.memmap(data.path("x.raw"), float, "r", shape=(data.rows, data.columns))
        return over(((x[lo:hi], y[lo:hi]) for lo, hi in data.slices()), w)

    descent = Descent(data, fold)
    serve(descent.step, descent.result)


class Pread:
    """Threads that read slices of the raw numbers, each into its own memory."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._pool = ThreadPoolExecutor(THREADS)
        width = min(WRITTEN_ROWS, data.rows) * data.columns
        self._rooms = [np.empty(width) for _ in range(THREADS)]

    def run(self, use: Callable[[int, int, int, Any], None]) -> None:
        """Read all once; `use(thread, lo, hi, x)` gets each slice."""
        slices, lock = iter(self._data.slices()), threading.Lock()
        descriptor = os.open(self._data.path("x.raw"), os.O_RDONLY)

        def work(thread: int) -> None:
            while True:
                with lock:
                    found = next(slices, None)
                if found is None:
                    return
                lo, hi = found
                size = (hi - lo) * self._data.columns
                room = self._rooms[thread][:size]
                left, at = room.view(np.uint8).data, 8 * lo * self._data.columns
                while left:
                    count = os.preadv(descriptor, [left], at)
                    if not count:
                        raise EOFError(f"{self._data.path('x.raw')} ends at byte {at}")
                    left, at = left[count:], at + count
                use(thread, lo, hi, room.reshape(hi - lo, -1))

        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            list(self._pool.map(work, range(THREADS)))
        finally:
            os.close(descriptor)


def pread(data: Data) -> None:
    """Threads by hand: some wait for the disk while others compute."""
    y, reader = np.fromfile(data.path("y.raw")), Pread(data)

    def fold(w: Any) -> tuple[Any, float]:
        gradients, losses = np.zeros((THREADS, data.columns)), [0.0] * THREADS

        def use(thread: int, lo: int, hi: int, x: Any) -> None:
            losses[thread] += block_fold(x, y[lo:hi], w, gradients[thread])

        reader.run(use)
        return gradients.sum(axis=0), sum(losses)

    descent = Descent(data, fold)
    serve(descent.step, descent.result)


def disk(data: Data) -> None:
    """The same without computing: what the disk gives."""
    reader = Pread(data)
    serve(lambda: reader.run(lambda thread, lo, hi, x: None), lambda: None)


def scan(data: Data, name: str, form: str) -> None:
    """pyarrow.dataset, which reads ahead; computing is the calling thread's."""
    dataset = pyarrow.dataset.dataset(str(data.path(name)), format=form)

    def blocks() -> Iterator[tuple[Any, Any]]:
        for batch in dataset.to_batches(
            batch_size=WRITTEN_ROWS, batch_readahead=4, fragment_readahead=1
        ):
            x = batch["x"].flatten().to_numpy(zero_copy_only=True)
            yield x.reshape(-1, data.columns), batch["y"].to_numpy()

    descent = Descent(data, lambda w: over(blocks(), w))
    serve(descent.step, descent.result)


def dask(data: Data) -> None:
    """dask.delayed over parts of the memmap, one graph for each pass, on its threads."""
    library = importlib.import_module("dask")
    compute, delayed = library.compute, library.delayed

    y, parts = np.fromfile(data.path("y.raw")), data.slices()

    def part(lo: int, hi: int, w: Any) -> tuple[Any, float]:
        x = np.memmap(data.path("x.raw"), float, "r", shape=(data.rows, data.columns))
        return over(iter([(x[lo:hi], y[lo:hi])]), w)

    def fold(w: Any) -> tuple[Any, float]:
        found = compute(*(delayed(part)(lo, hi, w) for lo, hi in parts), scheduler="threads")
        return sum(g for g, _ in found), sum(loss for _, loss in found)

    descent = Descent(data, fold)
    serve(descent.step, descent.result)


def spark(data: Data, memory: int) -> None:
    """An RDD of blocks that are kept by DISK_ONLY, in Spark's own format."""
    level = importlib.import_module("pyspark").StorageLevel.DISK_ONLY
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master(
        f"local[{os.cpu_count()}]"
    )
    settings = {
        "spark.driver.memory": f"{max(1024, memory >> 20)}m",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(data.folder),
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    context = builder.getOrCreate().sparkContext
    context.setLogLevel("ERROR")
    folder, rows, columns = data.folder, data.rows, data.columns

    def read(bounds: tuple[int, int]) -> tuple[Any, Any]:
        lo, hi = bounds
        x = np.memmap(folder / "x.raw", float, "r", shape=(rows, columns))
        return np.array(x[lo:hi]), np.fromfile(folder / "y.raw")[lo:hi]

    parts = data.slices()
    kept = context.parallelize(parts, len(parts)).map(read).persist(level)
    kept.count()

    def fold(w: Any) -> tuple[Any, float]:
        given = context.broadcast(w)

        def part(blocks: Any) -> Any:
            yield over(blocks, given.value)

        pair = kept.mapPartitions(part).treeReduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), 2)
        return pair[0], pair[1]

    descent = Descent(data, fold)
    serve(descent.step, descent.result)


WAYS: dict[str, Callable[[Data, int], None]] = {
    "ours, IPC": lambda data, memory: ours(data, memory, so.read_ipc, "data.arrow"),
    "ours, Parquet": lambda data, memory: ours(data, memory, so.read_parquet, "data.parquet"),
    "disk": lambda data, memory: disk(data),
    "numpy.memmap": lambda data, memory: memmap(data),
    "pread by hand": lambda data, memory: pread(data),
    "pyarrow IPC": lambda data, memory: scan(data, "data.arrow", "ipc"),
    "pyarrow Parquet": lambda data, memory: scan(data, "data.parquet", "parquet"),
    "dask": lambda data, memory: dask(data),
    "pyspark": spark,
}
_OPTIONAL = ("dask", "pyspark")


# The table.


def lines(found: list[Cold], data: Data, memory: int) -> list[str]:
    """A line for each way. Ours streams what its memory does not hold."""
    by_name = {way.name: way for way in found}
    rate = data.bytes / by_name["disk"].typical
    mapped = by_name.get("numpy.memmap")
    shown = [
        f"the disk reads {bytes_text(rate)}/s",
        f"{'':<16} {'s/iteration':>12} {'x disk':>8} {'x memmap':>9} {'memory':>10} {'beyond':>10}",
    ]
    for way in found:
        streamed = data.bytes - (memory if way.name.startswith("ours") else 0)
        of_disk = f"{way.typical * rate / streamed:.2f}" if streamed > 0 else ""
        of_memmap = "" if mapped is None else f"{way.typical / mapped.typical:.2f}"
        held, more = bytes_text(way.peak), bytes_text(way.peak - way.start)
        shown.append(
            f"{way.name:<16} {way.typical:12.3f} {of_disk:>8} {of_memmap:>9} {held:>10} {more:>10}"
        )
    pair = [by_name.get(name) for name in ("ours, Parquet", "pyarrow Parquet")]
    if pair[0] is not None and pair[1] is not None:
        ratio = pair[0].typical / pair[1].typical
        shown.append(f"ratio ours / pyarrow, from Parquet: {ratio:.2f}")
    return shown


def check(found: list[Cold]) -> None:
    """All that compute give the same, to rounding."""
    given = [way for way in found if way.result is not None]
    for way in given[1:]:
        np.testing.assert_allclose(way.result, given[0].result, rtol=1e-8, err_msg=way.name)


def child(name: str, data: Data, memory: int) -> list[str]:
    """The command of a way's process."""
    made = [str(data.folder), str(data.rows), str(data.columns), str(memory)]
    return [sys.executable, "-m", "benchmarks.out_of_core", "--child", name, *made]


def measured(data: Data, memory: int, iterations: int, names: list[str]) -> list[Cold]:
    """Write the data, and let the ways take turns."""
    write(data)
    for name in set(_OPTIONAL) & set(names):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out")
            names = [n for n in names if n != name]
    commands = {name: child(name, data, memory) for name in names}
    found = in_turn(commands, data.paths(), iterations, {"OPENBLAS_NUM_THREADS": "1"})
    check(found)
    return found


def main(arguments: list[str] | None = None) -> list[Cold]:
    """Run and print."""
    given_arguments = sys.argv[1:] if arguments is None else arguments
    if given_arguments[:1] == ["--child"]:
        name, where, *numbers = given_arguments[1:]
        rows, columns, memory = map(int, numbers)
        WAYS[name](Data(Path(where), rows, columns), memory)
        return []
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--memory", type=int, default=1_200_000_000)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the files are made, and removed")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    given = parser.parse_args(given_arguments)
    folder = Path(tempfile.mkdtemp(prefix="scalops-out-of-core-", dir=given.folder))
    try:
        data = Data(folder, given.rows, given.columns)
        names = list(dict.fromkeys(["disk", *given.ways]))
        found = measured(data, given.memory, given.iterations, names)
        print(
            f"logistic regression, {data.rows:,} x {data.columns} float64,"
            f" {bytes_text(data.bytes)}, {bytes_text(given.memory)} of memory, cold"
        )
        print("\n".join(lines(found, data, given.memory)))
        return found
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
