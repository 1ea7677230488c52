"""prune_scan: what a filter rules out is not read, and the records are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.tree import find
from scalops.optimizer.rules.prune_scan import prune_scan
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_stays, before_and_after, job_of

ROWS, GROUP = 40, 4
Predicate = Callable[[Any], Any]


def files(folder: Path) -> str:
    """Two files of five row groups each, in folders of a key."""
    for part in (0, 1):
        (folder / f"part={part}").mkdir(exist_ok=True)
        at = np.arange(ROWS // 2) + part * ROWS // 2
        f = at.astype(float)
        f[at % 7 == 3] = np.nan
        table = pa.table(
            {
                "i": pa.array(at, pa.int32()),
                "u": pa.array(at + 2**31, pa.uint32()),
                "f": f,
                "s": [f"s{n:02}" for n in at],
                "t": pa.array(at * 86_400, pa.timestamp("s")),
                "n": pa.array(at, mask=(at < 8) | (at % 5 == 0)),
                "b": at < 10,
            }
        )
        pq.write_table(table, folder / f"part={part}" / "a.parquet", row_group_size=GROUP)
    return str(folder)


def groups_read(table: Any) -> int:
    """How many row groups the optimized plan reads."""
    (scan,) = find([apply(job_of(table), prune_scan)[0]], op.Scan)
    contents: Any = scan.source
    return len(contents.contents.contents.groups)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return files(tmp_path_factory.mktemp("pruned"))


@pytest.mark.parametrize(
    ("predicate", "groups"),
    [
        (lambda r: r.part == 1, 5),
        (lambda r: r.part != 1, 5),
        (lambda r: r.i < 4, 1),
        (lambda r: r.i <= 4, 2),
        (lambda r: (r.i > 7) & (r.i < 12) & (r.part == 0), 1),
        (lambda r: np.less(37, r.i), 1),
        (lambda r: r.i == 5.5, 1),
        (lambda r: r.i == 300, 0),
        (lambda r: np.isin(r.i, [1, 2, 39]), 2),
        (lambda r: r.u >= np.uint32(2**31 + 36), 1),
        (lambda r: r.f > 100.0, 0),
        (lambda r: r.f != 3.0, 10),  # NaN differs
        (lambda r: r.s == "s17", 1),
        (lambda r: np.isin(r.s, ["s17", "x"]), 1),
        (lambda r: r.t < np.datetime64("1970-01-05"), 1),
        (lambda r: so.is_null(r.n), 8),  # none of 16..19, of 36..39
        (lambda r: ~so.is_null(r.n), 8),
        (lambda r: r.n > -1, 8),
        (lambda r: r.b, 3),
        (lambda r: ~r.b, 8),
        (lambda r: ~(r.i == 5), 10),
        (lambda r: r.i + 1 < 4, 10),  # computed: not decided
    ],
)
def test_row_groups_that_are_left(path: str, predicate: Predicate, groups: int) -> None:
    kept = so.read_parquet(path).filter(predicate)
    assert groups_read(kept) == groups
    cached = so.read_parquet(path).cache().filter(predicate)  # nothing pruned below a cache
    assert str(kept.collect().to_pylist()) == str(cached.collect().to_pylist())  # also NaN


@pytest.mark.parametrize(
    ("predicate", "groups"),
    [
        (lambda r: r.d < np.datetime64("1970-01-01"), 2),
        (lambda r: r.d == np.datetime64("1970-01-05T00:00:01"), 1),
        (lambda r: r.d > np.datetime64("1970-01-08T01", "ms"), 0),
        (lambda r: r.d != np.datetime64("1970-01-01"), 4),
    ],
)
@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_row_groups_of_dates(
    kind: pa.DataType, predicate: Predicate, groups: int, tmp_path: Path
) -> None:
    days = pa.array(np.arange(-8, 8), pa.int32()).cast(pa.date32()).cast(kind)
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"d": days}), file, row_group_size=4)
    kept = so.read_parquet(file).filter(predicate)
    (scan,) = find([apply(job_of(kept), prune_scan)[0]], op.Scan)
    contents: Any = scan.source
    assert len(contents.contents.groups) == groups
    cached = so.read_parquet(file).cache().filter(predicate)
    assert kept.collect().to_pylist() == cached.collect().to_pylist()


def test_fires(path: str, golden: Golden) -> None:
    t = so.read_parquet(path)
    limit = 7  # captured from Python
    cases = {
        "by a folder": t.filter(lambda r: r.part == 1),
        "by statistics and a folder": t.filter(lambda r: (r.i < limit) & (r.part == 0)),
        "what is true everywhere is not said": t.filter(lambda r: (r.i >= 0) & (r.s < "s04")),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    shown = before_and_after(*((n, j, apply(j, prune_scan)[0]) for n, j in jobs.items()))
    golden("rules/prune_scan.txt", shown.replace(Path(path).name, "folder"))


def test_stays(path: str) -> None:
    t = so.read_parquet(path)
    numbers = so.table({"i": np.arange(3)})
    for table in (
        t.filter(lambda r: r.i >= 0),  # nothing to leave out
        t.filter(lambda r: r.i * 2 < 4),  # computed
        t.filter(lambda r: r.i < r.f),  # of two columns
        t.filter(lambda r: (r.i < 4) & (np.power(r.i, r.i) > 3)),  # may fail for a record
        t.filter(lambda r: r.i < (1 if r.b else 2)),  # opaque
        t.filter(lambda r: r.i < t.count()),  # not known when the plan is made
        t.limit(5).filter(lambda r: r.i > 30),
        numbers.filter(lambda r: r.i > 30),  # in memory
    ):
        assert_stays(job_of(table), prune_scan)


def test_a_value_of_a_loop_decides_nothing(path: str) -> None:
    t = so.read_parquet(path)

    @so.loop(1, range(3))
    def counted(n: Any) -> Any:
        return n + t.filter(lambda r: r.i < n).count()

    assert_stays(job_of(counted), prune_scan)


def test_pruning_twice_leaves_out_more(path: str) -> None:
    scan: Any = find([job_of(so.read_parquet(path))], op.Scan)[0].source
    job = apply(job_of(so.read_parquet(path).filter(lambda r: r.i < 30)), prune_scan)[0]
    once: Any = find([job], op.Scan)[0].source
    assert once.rows == 32 < scan.rows
    assert len({repr(scan), repr(once)}) == len({scan.stamp, once.stamp}) == 2
    assert once.bytes < scan.bytes
    assert once.check_unchanged() is None


numbers = st.one_of(st.none(), st.integers(-3, 3), st.integers(2**53 - 1, 2**53 + 2))
floats = st.sampled_from([None, 0.0, -0.0, 1.5, np.nan, np.inf, -np.inf, 2.0**53])
texts = st.one_of(st.none(), st.text(alphabet="abé\U0001f600", max_size=3))
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
}


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.tuples(numbers, floats, texts), min_size=1, max_size=12),
    column=st.sampled_from("ifs"),
    sign=st.sampled_from(list(OPERATORS)),
    size=st.integers(1, 4),
    data=st.data(),
)
def test_pruned_or_not_the_records_are_the_same(
    tmp_path: Path, rows: list[Any], column: str, sign: str, size: int, data: st.DataObject
) -> None:
    i, f, s = zip(*rows, strict=True)
    table = pa.table(
        {
            "row": range(len(rows)),
            "i": pa.array(i, pa.int64()),
            "f": pa.array(f, pa.float64(), from_pandas=False),
            "s": pa.array(s, pa.string()),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=size)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "i": st.one_of(numbers, floats),
        "f": st.one_of(floats, st.integers(-3, 3)),
        "s": texts,
    }
    value = data.draw(kinds[column].filter(lambda v: v is not None))
    compare = OPERATORS[sign]
    source = so.read_parquet(path)
    kept = source.filter(lambda r: compare(getattr(r, column), value)).collect()
    plain = source.cache().filter(lambda r: compare(getattr(r, column), value)).collect()
    assert kept.column("row").to_pylist() == plain.column("row").to_pylist()
    if column == "s":  # NaN is the greatest number to DuckDB, and it compares integers exactly
        found = duckdb.execute(
            f"select row from '{path}' where {column} {sign} $1 order by row", [value]
        ).fetchall()
        assert kept.column("row").to_pylist() == [row for (row,) in found]
