"""Tables come from and go to Polars, DuckDB and pandas through Arrow's C stream."""

import datetime
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import scalops as so

DAY = datetime.datetime(2020, 1, 1)


def test_polars_in() -> None:
    frame = pl.DataFrame(
        {
            "c": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "e": pl.Series(["a", "b", "a"], dtype=pl.Enum(["a", "b"])),
            "s": ["x", None, "long enough to be no inline view"],
            "l": [[1, 2], [], None],
            "ls": [["a"], None, ["b", None]],
            "v": pl.Series([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=pl.Array(pl.Float64, 2)),
            "t": [DAY, None, DAY],
            "i": pl.Series([1, None, 3], dtype=pl.Int16),
        }
    )
    table = so.from_arrow(frame)
    assert str(table.schema) == (
        "c: string, e: string, s: string, l: list[int64], ls: list[string], v: float64[2], "
        "t: timestamp[us], i: int16"
    )
    assert table.collect().to_pydict() == frame.to_dict(as_series=False)
    assert so.from_arrow(frame.lazy().collect().slice(1)).sum("i").collect() == 3


def test_pandas_in() -> None:
    frame = pd.DataFrame(
        {
            "c": pd.Categorical(["a", "b", None]),
            "k": pd.Categorical([10, 20, 10]),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "b": pd.array([True, None, False], dtype="boolean"),
            "s": ["x", None, "z"],
            "t": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
            "f": [1.0, np.nan, 3.0],
        }
    )
    table = so.from_arrow(frame)
    types = {name: str(kind) for name, kind in table.schema}
    assert types.pop("t") in ("timestamp[us]", "timestamp[ns]", "timestamp[s]")
    assert types == {
        "c": "string", "k": "int64", "n": "int64", "b": "bool", "s": "string", "f": "float64",
    }  # fmt: skip
    found = table.drop("t").collect().to_pydict()
    assert found == {
        "c": ["a", "b", None],
        "k": [10, 20, 10],
        "n": [1, None, 3],
        "b": [True, None, False],
        "s": ["x", None, "z"],
        "f": [1.0, None, 3.0],  # NaN is how pandas writes a missing value
    }
    assert table.filter(lambda r: so.is_null(r.t)).count().collect() == 1


def test_duckdb_in() -> None:
    relation = duckdb.sql(
        "select i::int a, 'k' || i s, [i, i + 1] l, timestamp '2020-01-01' t,"
        " case when i = 1 then null else i end n, 'u'::enum('u', 'v') e from range(3) r(i)"
    )
    table = so.from_arrow(relation)
    assert str(table.schema) == (
        "a: int32, s: string, l: list[int64], t: timestamp[us], n: int64, e: string"
    )
    assert table.collect().to_pydict() == {
        "a": [0, 1, 2],
        "s": ["k0", "k1", "k2"],
        "l": [[0, 1], [1, 2], [2, 3]],
        "t": [DAY] * 3,
        "n": [0, None, 2],
        "e": ["u"] * 3,
    }


def result() -> so.Table:
    """A table of several kinds of columns, with nulls and NaN."""
    return so.table(
        {
            "i": [1, None],
            "s": ["a", None],
            "v": np.eye(2),
            "l": [[1], [2, 3]],
            "f": [1.0, float("nan")],
        }
    )


def test_polars_out() -> None:
    for frame in (pl.DataFrame(result()), result().to_polars()):
        assert frame.to_dict(as_series=False)["i"] == [1, None]
        assert frame["l"].to_list() == [[1], [2, 3]]
        assert frame["v"].to_list() == [[1.0, 0.0], [0.0, 1.0]]
        assert frame["f"].is_nan().to_list() == [False, True]


def test_pandas_out() -> None:
    frame = result().to_pandas()
    assert frame["i"].isna().tolist() == [False, True]
    assert frame["s"].tolist()[0] == "a"
    assert [list(v) for v in frame["v"]] == [[1.0, 0.0], [0.0, 1.0]]


def test_duckdb_out() -> None:
    rows = duckdb.from_arrow(result()).fetchall()
    assert [row[:4] for row in rows] == [
        (1, "a", (1.0, 0.0), [1]),
        (None, None, (0.0, 1.0), [2, 3]),
    ]


def test_stream_out_runs_the_plan_and_takes_a_requested_schema() -> None:
    table = so.table({"i": [1, 2, 3]}).filter(lambda r: r.i > 1)
    assert pa.table(table).to_pydict() == {"i": [2, 3]}
    wanted = pa.schema([("i", pa.int32())])
    stream = table.__arrow_c_stream__(wanted.__arrow_c_schema__())
    reader = pa.RecordBatchReader._import_from_c_capsule(stream)
    assert reader.schema == wanted
    assert so.from_arrow(table).sum("i").collect() == 5


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_encodings_of_strings(kind: Any) -> None:
    array = pa.array(["a", None, "b", "a"]).cast(kind)
    table = so.from_arrow(pa.table({"s": pa.chunked_array([array.slice(1), array])}))
    assert table.collect().column("s").to_pylist() == [None, "b", "a", "a", None, "b", "a"]
    assert table.map(lambda r: r.s.str.length()).sum().collect() == 5


@pytest.mark.parametrize("zone", [None, "UTC", "Z", "+00:00"])
def test_timestamps_of_each_unit(zone: str | None) -> None:
    for unit in ("s", "ms", "us", "ns"):
        times = pa.array([1, None], pa.timestamp(unit, zone))
        table = so.from_arrow(pa.table({"t": times}))
        assert str(table.schema) == f"t: timestamp[{unit}]"
        assert table.collect().column("t").cast(pa.int64()).to_pylist() == [1, None]


def test_other_zones_say_what_to_do() -> None:
    times = pa.array([1], pa.timestamp("us", "Europe/Berlin"))
    with pytest.raises(so.SchemaError, match=r"column 't' .*; cast it to a timestamp without zone"):
        so.from_arrow(pa.table({"t": times}))
