"""JSON lines: types from the head, each object once, and errors that name line and value."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import DataError, SchemaError
from scalops.engine.storage import FileSource, Partition, read_json
from tests.engine.storage.reading import to_table
from tests.quick import repeated


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(contents: bytes | str, name: str = "a.json", **options: Any) -> FileSource:
    Path(name).write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return read_json(name, **options)


def rows(source: FileSource) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = to_table(source).to_pylist()
    return found


def test_types_are_inferred_in_the_order_of_the_keys() -> None:
    source = of('{"s":"a","i":1,"f":1.5,"b":true,"t":"2020-01-02T03:04:05","l":[1],"n":null}\n')
    assert str(source.schema) == (
        "s: string, i: int64, f: float64, b: bool, t: timestamp[s], l: list[int64], n: string"
    )


def test_missing_keys_are_null_and_nan_is_a_number() -> None:
    source = of('{"a":NaN,"b":[]}\n{}\n{"a":null,"b":[1.5]}\n{"a":-Infinity,"c":"x"}')
    assert str(source.schema) == "a: float64, b: list[float64], c: string"
    found = rows(source)
    assert [r["a"] for r in found[1:]] == [None, None, float("-inf")]
    assert found[0]["a"] != found[0]["a"]
    assert [r["b"] for r in found] == [[], None, [1.5], None]


def test_blank_lines_byte_order_mark_and_crlf_are_no_records() -> None:
    assert rows(of('\ufeff{"a":1}\r\n\r\n  \n{"a":2}\r\n')) == [{"a": 1}, {"a": 2}]


def test_given_types_overrule_and_add() -> None:
    types = {
        "v": "float64[2]", "m": "int32[2,1]", "x": "sparse[9]", "d": "duration[ms]",
        "h": "float16", "i": "int8", "t": "timestamp[us]", "new": "list[string]",
    }  # fmt: skip
    line = {
        "i": 1, "v": [1, 2], "m": [[1], [2]], "x": [{"index": 3, "value": 2}], "d": 5, "h": 0.5,
        "t": "2020-01-02 03:04:05.25", "other": 1,
    }  # fmt: skip
    source = of(json.dumps(line), column_types=types)
    assert source.schema.types == {
        **{name: source.schema[name] for name in types}, "other": source.schema["other"]
    }  # fmt: skip
    assert {n: str(k) for n, k in source.schema} == {**types, "other": "int64"}
    (found,) = rows(source)
    assert (found["v"], found["m"], found["new"]) == ([1.0, 2.0], [1, 2], None)
    assert found["x"] == [{"index": 3, "value": 2.0}]
    assert found["d"].total_seconds() == 0.005


def test_columns_leave_out_what_has_no_type() -> None:
    text = '{"a":1,"b":{"c":1}}\n{"b":{},"a":2}\n'
    with pytest.raises(SchemaError, match=r"a\.json: column 'b' has the Arrow type struct"):
        of(text)
    assert rows(of(text, columns=["a"])) == [{"a": 1}, {"a": 2}]


def test_index_and_value_need_a_dimension() -> None:
    with pytest.raises(SchemaError, match=r'give column_types=\{"x": "sparse\[1000\]"\}'):
        of('{"x":[{"index":1,"value":2}]}\n')


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("[1]", r":3 holds \[1\], not an object; there must be one object on each line"),
        ("7", ":3 holds 7, not an object"),
        ("{", r":3: b'\{' is not JSON: Expecting property name"),
        ('{"a":1}{"a":2}', r":3: .* is not JSON: Extra data"),
        ('{"a":"x"}', r""":3: column 'a' holds 'x', expected int64; .*column_types=\{"a": "str"""),
        ('{"a":1.5}', r""":3: column 'a' holds 1\.5, expected int64; .*\{"a": "float64"\}"""),
        ('{"a":99999999999999999999}', ":3: column 'a' holds 99999999999999999999, expected int64"),
        ('{"v":[1]}', r":3: column 'v' holds \[1\], expected float64\[2\]"),
        ('{"v":[1,null]}', r":3: column 'v' holds \[1, None\], expected float64\[2\]"),
        ('{"a":1,"v":null}', r":3: column 'v' is null or missing; float64\[2\] refuses nulls"),
        ('{"a":1,"a":2,"v":[1,2]}', ":3"),
        ('{"x":[{"index":9,"value":1}],"v":[1,2]}', ":3: column 'x' holds"),
    ],
)
def test_line_that_does_not_fit_is_named(bad: str, message: str) -> None:
    good = '{"a":1,"v":[1,2],"x":[]}'
    types = {"a": "int64", "v": "float64[2]", "x": "sparse[9]"}
    text = "\n".join([good, "", bad, good])
    with pytest.raises(DataError, match=rf"a\.json{message}"):
        rows(of(text, column_types=types))
    assert len(rows(of(text, column_types=types, on_error="skip"))) == 2


def test_brackets_in_texts_are_not_nested() -> None:
    text = "[{" * 2_000
    assert rows(of(json.dumps({"a": text, "b": [1]})))[0]["a"] == text


def test_value_behind_the_head_is_named() -> None:
    lines = [f'{{"a":{i},"b":"{i}"}}' for i in range(90_000)]
    lines[80_000] = '{"a":"x","b":"y"}'
    source = of("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.json:80001: column 'a' holds 'x', expected int64"):
        rows(source)
    # Who does not read the column does not meet the value.
    read = [b for p in source.partitions() for b in source.read(p, ("b",))]
    assert sum(b.rows for b in read) == 90_000


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "no record in .*a.json"),
        (b"\n \n", "no record in"),
        (b"\x00\x01\xff", "a.json:1.* is not UTF-8"),
        (b'{"a":1}\n{"a":"\xff"}\n', "a.json:2.* is not UTF-8 text"),
        (b'{\n"a":1\n}\n', "a.json:1.* is not JSON"),
        (b"[" * 100_000, "a.json:1 is nested 100,000 deep; at most 250 is read"),
        (b'{"b":1}\n{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}\n", "a.json:2 is nested 2,001 deep"),
        (
            b'{"b":1}\n{"a":' + b"[" * 60 + b"]" * 60 + b"}\n",
            "a.json:2: column 'a' is nested 60 deep",
        ),
        (b'{"a":1}\n{"a":1,"a":2}\n', "a.json:2: the key 'a' stands twice in one object"),
        (b'{"a":1}\n{"a":1e400}\n', "a.json:2: the number 1e400 is beyond float64"),
        (b'{"a":"x"}\n{"a":"\\ud800"}\n', "a.json:2: .* is half of a pair of surrogates"),
        (b'{"a":1}\n{"a":"x"}\n', "a.json:2: column 'a' holds a string, before it held a number"),
        (b"PAR1\xff\n", "it is a Parquet file: use read_parquet"),
    ],
)
def test_hostile_files_are_named_at_once(contents: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        of(contents)


def test_types_that_there_are_not_are_refused() -> None:
    with pytest.raises(SchemaError, match="column_types gives 'a' the type 'integer'; the types"):
        of('{"a":1}', column_types={"a": "integer"})


def test_empty_file_with_types_is_an_empty_table() -> None:
    source = of("", column_types={"a": "int64", "v": "float64[2]", "x": "sparse[3]"})
    assert rows(source) == []
    assert source.head(3, ("a",)).rows == 0


BAD = '{"a":1,"b":"x"}\n{"a":"q","b":"y"}\nzzz\n{"a":2,"b":5}\n{"a":3}\n'


def test_bad_fields_are_null_and_bad_lines_skipped() -> None:
    types = {"a": "int64", "b": "string"}
    assert rows(of(BAD, on_error="skip", column_types=types)) == [
        {"a": 1, "b": "x"},
        {"a": 3, "b": None},
    ]
    assert rows(of(BAD, on_error="null", column_types=types)) == [
        {"a": 1, "b": "x"},
        {"a": None, "b": "y"},
        {"a": None, "b": None},
        {"a": 2, "b": None},
        {"a": 3, "b": None},
    ]
    assert of(BAD, on_error="skip").schema.names == ("a", "b")


def test_skipped_lines_do_not_depend_on_the_columns() -> None:
    source = of(BAD, on_error="skip", column_types={"a": "int64", "b": "string"})
    for columns in ((), ("a",), ("b",)):
        assert sum(b.rows for p in source.partitions() for b in source.read(p, columns)) == 2


def test_vectors_refuse_nulls_also_where_errors_become_nulls() -> None:
    source = of('{"v":[1,2]}\n{"v":[1]}\n', column_types={"v": "float64[2]"}, on_error="null")
    with pytest.raises(DataError, match=r"column 'v' .* refuses nulls; use on_error=.skip"):
        rows(source)


values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
records = st.fixed_dictionaries(
    {}, optional={"i": values, "s": st.text(max_size=4), "l": st.lists(values, max_size=3)}
)


@repeated(3)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    files=st.lists(st.lists(records, max_size=8), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 300), max_size=5),
)
def test_any_ranges_hold_every_object_once(
    run: int, tmp_path: Path, files: list[list[dict[str, Any]]], cuts: list[int]
) -> None:
    paths = []
    for index, found in enumerate(files):
        paths.append(tmp_path / f"{index}.jsonl")
        lines = [json.dumps(record, ensure_ascii=index % 2 == 0) for record in found]
        paths[-1].write_text("\n".join(lines), encoding="utf-8")
    types = {"i": "int64", "s": "string", "l": "list[int64]"}
    source = read_json(paths, column_types=types)
    bounds = sorted({0, source.bytes, *(min(cut, source.bytes) for cut in cuts)})
    read = []
    for start, stop in pairwise(bounds):
        for block in source.read(Partition(0, start, stop), ("i", "s", "l")):
            valid = block.valid.get("i", [True] * block.rows)
            i = [
                v if ok else None for v, ok in zip(block.columns["i"].tolist(), valid, strict=True)
            ]
            s, lists = block.columns["s"].to_pylist(), block.columns["l"].to_pylist()
            read += [dict(zip(types, row, strict=True)) for row in zip(i, s, lists, strict=True)]
    assert read == [{**dict.fromkeys(types), **r} for found in files for r in found]
