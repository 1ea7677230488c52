"""The benchmarks over data larger than memory: what they compute and print, at small sizes."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import memory_curve, out_of_core
from benchmarks.cold import Cold, anonymous_bytes, forget, nameless_files
from benchmarks.memory_curve import Point, steps, table
from benchmarks.out_of_core import Data, Descent, Pread, block_fold, over, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    made = Data(tmp_path_factory.mktemp("data"), 30_000, 5)
    write(made)
    return made


def test_all_files_have_the_same_records(data: Data) -> None:
    import pyarrow.dataset as ds

    x = np.fromfile(data.path("x.raw")).reshape(data.rows, data.columns)
    y = np.fromfile(data.path("y.raw"))
    for name, form in (("data.arrow", "ipc"), ("data.parquet", "parquet")):
        found = ds.dataset(data.path(name), format=form).to_table()
        flat = np.concatenate([c.flatten().to_numpy() for c in found["x"].chunks])
        assert np.array_equal(flat, x.reshape(-1))
        assert np.array_equal(found["y"].to_numpy(), y)
    assert set(np.unique(y)) == {-1.0, 1.0}


def test_a_step_by_hand_is_that_of_whole_arrays(data: Data) -> None:
    x = np.fromfile(data.path("x.raw")).reshape(data.rows, data.columns)
    y = np.fromfile(data.path("y.raw"))
    descent = Descent(data, lambda w: over(((x[a:b], y[a:b]) for a, b in data.slices()), w))
    for _ in range(2):
        w = descent.w
        descent.step()
        margin = y * (x @ w)
        gradient = (x * (-y / (1 + np.exp(margin)))[:, None]).sum(axis=0)
        expected = w - out_of_core.RATE * (gradient / data.rows + out_of_core.LAMBDA * w)
        assert descent.w == pytest.approx(expected, rel=1e-9)
        assert descent.loss == pytest.approx(np.log1p(np.exp(-margin)).mean(), rel=1e-9)


def test_threads_read_every_record_once(data: Data) -> None:
    x = np.fromfile(data.path("x.raw")).reshape(data.rows, data.columns)
    seen = np.zeros(data.rows, int)

    def use(thread: int, lo: int, hi: int, found: np.ndarray) -> None:
        assert np.array_equal(found, x[lo:hi])
        seen[lo:hi] += 1

    Pread(data).run(use)
    assert (seen == 1).all()


def test_a_fold_goes_block_by_block() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5_001, 3)), np.ones(5_001)
    gradient = np.zeros(3)
    block_fold(x, y, np.zeros(3), gradient)
    assert gradient == pytest.approx(-x.sum(axis=0) / 2)


def test_files_are_forgotten_and_memory_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100_000)
    forget([path, tmp_path / "none"])
    assert path.read_bytes() == b"x" * 100_000
    before = anonymous_bytes(os.getpid())
    held = np.ones(4_000_000)
    assert anonymous_bytes(os.getpid()) - before >= 0.9 * held.nbytes
    with open(path, "rb") as file:
        path.unlink()
        assert any(int(p.name) == file.fileno() for p in nameless_files(os.getpid()))


def test_ratios_are_of_what_is_streamed() -> None:
    made = Data(Path(), 1_000_000, 10)  # 80 MB
    ways = [
        Cold("disk", (9.0, 1.0, 1.0), 0, 0, None),
        Cold("ours, IPC", (9.0, 0.6, 0.6), 10_000_000, 40_000_000, [1.0]),
        Cold("numpy.memmap", (9.0, 1.2, 1.2), 0, 0, [1.0]),
    ]
    first, _, _, ours, mapped = out_of_core.lines(ways, made, 20_000_000)
    assert "80 MB/s" in first
    assert ours.split()[2:] == ["0.600", "0.80", "0.50", "40", "MB", "30", "MB"]
    assert mapped.split()[1:4] == ["1.200", "1.20", "1.00"]
    out_of_core.check(ways)
    with pytest.raises(AssertionError, match=r"numpy\.memmap"):
        out_of_core.check([*ways[:2], Cold("numpy.memmap", (1.0,), 0, 0, [1.1])])


def test_a_step_is_what_added_bytes_do_not_explain() -> None:
    curve = [Point(t, int(t * 100), s, s) for t, s in ((0.5, 0.5), (1.0, 1.0), (2.0, 3.0))]
    small, large = steps(curve, 100, rate=50.0)
    assert (small.seconds, small.explained, small.streamed) == (0.5, 0.5, 0)
    # 100 bytes more to compute with, 1 s, and to read, 2 s.
    assert (large.seconds, large.explained, large.streamed) == (2.0, 3.0, 100)
    assert table("IPC", curve, 100, 50.0).count("\n") == 4


@pytest.mark.long
def test_all_ways_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--rows", "60000", "--columns", "10", "--memory", "2000000", "--iterations", "2"]
    found = out_of_core.main([*small, "--folder", str(tmp_path)])
    assert {"ours, IPC", "ours, Parquet", "numpy.memmap", "disk"} <= {way.name for way in found}
    assert all(len(way.seconds) == 2 and way.peak > 0 for way in found)
    assert "x memmap" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_curve_is_measured_and_drawn(tmp_path: Path) -> None:
    small = ["--memory", "2000000", "--columns", "10", "--iterations", "2", "--times", "0.5", "2"]
    plots = tmp_path / "plots"
    found = memory_curve.main([*small, "--assumed", "--plots", str(plots)])
    assert [p.times for p in found["IPC"]] == [0.5, 2.0]
    for curve in found.values():
        assert all(a.predicted < b.predicted for a, b in pairwise(curve))
    assert (plots / "memory-curve.svg").read_text().startswith("<?xml")
