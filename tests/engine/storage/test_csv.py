"""Delimited text is read in byte ranges, each record once, and errors name line and column."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalops.algebra.errors import DataError, PlanError, SchemaError
from scalops.engine.storage import FileSource, Partition, read_csv
from scalops.engine.storage.lines import lines_beginning
from tests.engine.storage.reading import layout, values, whole


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(contents: bytes | str, name: str = "a.csv", **options: Any) -> FileSource:
    Path(name).write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return read_csv(name, **options)


def columns(source: FileSource) -> dict[str, list[Any]]:
    """Python values of every column, None for nulls."""
    block = whole(source)
    found = {}
    for name in source.schema.names:
        valid = block.valid.get(name, np.ones(block.rows, bool))
        pairs = zip(values(block, name).tolist(), valid, strict=True)
        found[name] = [v if ok else None for v, ok in pairs]
    return found


def test_types_are_inferred_and_integers_stay_integers() -> None:
    source = csv("i,f,s,b,d,t\n1,1.5,a,true,2020-01-02,2020-01-02 03:04:05\n")
    assert str(source.schema) == (
        "i: int64, f: float64, s: string, b: bool, d: timestamp[s], t: timestamp[s]"
    )
    assert columns(source)["b"] == [True]
    assert values(whole(source), "d")[0] == np.datetime64("2020-01-02")


def test_empty_number_is_null_and_empty_string_is_empty() -> None:
    source = csv("n,s,f\n1,a,1.5\n,,\n2,NA,nan\n")
    assert columns(source)["n"] == [1, None, 2]
    assert columns(source)["s"] == ["a", "", "NA"]
    assert columns(source)["f"][1] is None


def test_nan_is_a_number_not_a_null() -> None:
    block = whole(csv("f\nnan\nNaN\n1\n"))
    assert not block.valid
    np.testing.assert_array_equal(block.columns["f"], [np.nan, np.nan, 1])


@pytest.mark.parametrize(
    "contents",
    [
        "a,b\n1,x\n2,y\n",
        "a,b\n1,x\n2,y",
        "a,b\r\n1,x\r\n2,y\r\n",
        "a,b\r\n1,x\r\n2,y",
        "a,b\r1,x\r2,y\r",
        "\n\na,b\n\n1,x\n\n\n2,y\n\n",
        "\r\na,b\r\n\r\n1,x\r\n\r\n2,y\r\n\r\n",
        "\ufeffa,b\n1,x\n2,y\n",
        '"a","b"\n1,"x"\n2,y\n',
    ],
)
def test_all_line_ends_give_the_same_records(contents: str) -> None:
    assert columns(csv(contents)) == {"a": [1, 2], "b": ["x", "y"]}


def test_header_options() -> None:
    text = "a,b\n1,2\n"
    assert columns(csv(text)) == {"a": [1], "b": [2]}
    assert columns(csv(text, column_names=["x", "y"])) == {"x": ["a", "1"], "y": ["b", "2"]}
    assert columns(csv(text, column_names=["x", "y"], has_header=True)) == {"x": [1], "y": [2]}
    assert columns(csv("1,2\n3,4\n", has_header=False)) == {"f0": [1, 3], "f1": [2, 4]}
    assert columns(csv("\ufeff1,2\n", has_header=False)) == {"f0": [1], "f1": [2]}


def test_delimiter_and_quotes() -> None:
    source = csv('a\tb\n"x\ty"\t"say ""hi"""\n', delimiter="\t")
    assert columns(source) == {"a": ["x\ty"], "b": ['say "hi"']}


def test_quote_inside_a_value_is_text() -> None:
    assert columns(csv('a,b\n1,5" pipe\n'))["b"] == ['5" pipe']


def test_given_types_overrule() -> None:
    source = csv("a,b,c\n1,2,3\n", column_types={"a": "float32", "b": "string", "c": "int8"})
    assert str(source.schema) == "a: float32, b: string, c: int8"
    assert columns(source) == {"a": [1.0], "b": ["2"], "c": [3]}


def test_columns_prune_the_schema_at_once() -> None:
    source = csv("a,b,c\n1,2,3\n", columns=["c", "a"])
    assert columns(source) == {"c": [3], "a": [1]}


def test_column_without_values_is_one_of_strings() -> None:
    assert columns(csv("a,b\n1,\n2,\n"))["b"] == ["", ""]


def test_header_alone_is_an_empty_table() -> None:
    for text in ("a,b", "a,b\n", "a,b\r\n\r\n"):
        source = csv(text, column_types={"a": "float64"})
        assert str(source.schema) == "a: float64, b: string"
        assert whole(source).rows == 0
        assert source.head(3, ("a",)).rows == 0
        assert len(source.partitions()) == 1


def test_empty_file_needs_names_and_types() -> None:
    for options in ({}, {"column_names": ["a"]}, {"has_header": False}):
        with pytest.raises(
            DataError, match=r"no line in .*a\.csv.*column_names= and column_types="
        ):
            csv("", **options)
    source = csv("", column_names=["a"], column_types={"a": "int64"})
    assert whole(source).rows == 0


def test_files_are_laid_end_to_end() -> None:
    csv("a,b\n1,x\n", "1.csv")
    Path("2.csv").touch()
    csv("a,b\n", "3.csv")
    csv("b,a\ny,2", "4.csv")
    source = read_csv("*.csv")
    assert columns(source) == {"a": [1, 2], "b": ["x", "y"]}
    assert source.rows is None


def test_files_of_other_columns_are_named() -> None:
    csv("a,b\n1,x\n", "1.csv")
    csv("a,c\n1,x\n", "2.csv")
    with pytest.raises(SchemaError, match=r"2\.csv has the columns \['a', 'c'\].*1\.csv"):
        read_csv("*.csv")


@pytest.mark.parametrize(
    ("contents", "options", "message"),
    [
        ("a,b\n1,2\n1.5,3\n", {}, ":3: column 'a' holds '1.5', expected int64"),
        ("a,b\n\n1,2\n1,x\n2,y\n", {}, ":4: column 'b' holds 'x', expected int64"),
        ("a,b\r\n1,2\r\n1,300\r\n", {"b": "int8"}, ":3: column 'b' holds '300', expected int8"),
        ("a,b\n1,2\n1,2,3\n", {}, ":3 has 3 fields, expected 2"),
        ("a,b\n1,2\n\n1\n", {}, ":4 has 1 field, expected 2"),
        (b"a,b\n1,x\n1,\xff\n", {"b": "string"}, ":3: column 'b' is not UTF-8 text"),
        ('a,b\n1,x\n1,"y\nz"\n', {"b": "string"}, ":3: a quoted value goes on in the next line"),
        ('a,b\n1,5" x\n1,"y\n2,z\n', {}, ":3: a quoted value goes on in the next line"),
    ],
)
def test_record_that_does_not_fit_is_named(
    contents: bytes | str, options: dict[str, str], message: str
) -> None:
    types = {"a": "int64", "b": "int64", **options}
    if "quoted" in message:
        types["b"] = "string"
    with pytest.raises(DataError) as error:
        whole(csv(contents, column_types=types))
    assert f"a.csv{message}" in str(error.value)


@pytest.mark.parametrize(("value", "hint"), [("1.5", "float64"), ("x", "string")])
def test_value_behind_the_head_is_named_with_a_hint(value: str, hint: str) -> None:
    lines = [f"{i},{i}" for i in range(400_000)]
    lines[333_333] = f"1,{value}"
    source = csv("a,b\n" + "\n".join(lines))
    assert str(source.schema["b"]) == "int64"
    with pytest.raises(DataError) as error:
        whole(source)
    assert f"a.csv:333335: column 'b' holds '{value}', expected int64" in str(error.value)
    assert f'column_types={{"b": "{hint}"}}' in str(error.value)
    assert error.value.__cause__ is not None
    # Who does not read the column does not meet the value.
    assert whole(source, ("a",)).rows == 400_000


def test_text_that_is_not_utf8_is_named_at_once() -> None:
    with pytest.raises(DataError, match=r"a\.csv:3: column 'b' is not UTF-8 text"):
        csv(b"a,b\n1,x\n1,\xff\n")
    with pytest.raises(DataError, match=r"a\.csv:1: .*not UTF-8"):
        csv(b"a,\xff\n1,x\n")
    with pytest.raises(DataError, match="compressed"):
        csv(b"\x1f\x8b\x08\xff\xff\n1")


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (PlanError, {"delimiter": ";;"}),
        (PlanError, {"delimiter": '"'}),
        (PlanError, {"column_names": []}),
        (PlanError, {"column_names": "ab"}),
        (SchemaError, {"column_names": ["a", "a"]}),
        (SchemaError, {"column_types": {"none": "int64"}}),
        (SchemaError, {"column_types": {"a": "integer"}}),
        (DataError, {"column_names": ["a"]}),
    ],
)
def test_options_that_make_no_sense_are_refused(error: type[Exception], options: Any) -> None:
    with pytest.raises(error):
        csv("a,b\n1,2\n", **options)


def test_header_with_a_name_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"\['a'\] twice"):
        csv("a,a\n1,2\n")


def test_partitions_are_byte_ranges_of_at_least_256_kib() -> None:
    source = csv("a\n" + "12345678\n" * 100_000)
    bounds = [(p.start, p.stop) for p in source.partitions()]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == source.bytes
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert all(stop - start >= 256 * 1024 for start, stop in bounds)
    assert whole(source).rows == 100_000


def test_bounds_do_not_move_with_the_columns() -> None:
    source = csv("a,b\n" + "1,text\n" * 200_000)
    assert layout(source, ("a",)) == layout(source, ("a", "b"))
    assert layout(source, ()) == layout(source, ("a", "b"))


def test_head_reads_little(monkeypatch: pytest.MonkeyPatch) -> None:
    source = csv("a\n" + "12345678\n" * 500_000)
    read: list[int] = []

    def counted(*args: Any) -> tuple[int, bytes]:
        begin, data = lines_beginning(*args)
        read.append(len(data))
        return begin, data

    monkeypatch.setattr("scalops.engine.storage.lines.lines_beginning", counted)
    assert source.head(5, ("a",)).rows == 5
    assert sum(read) < 100_000
    assert source.head(300_000, ("a",)).rows == 300_000


def test_first_line_may_be_long() -> None:
    names = [f"column_{i}" for i in range(30_000)]
    source = csv(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    assert source.schema.names == tuple(names)
    assert source.head(1, (names[-1],)).rows == 1


fields = st.tuples(
    st.one_of(st.none(), st.integers(-99, 99)),
    st.text(st.sampled_from('ab "é,;'), max_size=6),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(fields, max_size=8), min_size=1, max_size=3),
    end=st.sampled_from(["\n", "\r\n"]),
    blank=st.booleans(),
    bom=st.booleans(),
    last=st.booleans(),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_any_ranges_hold_every_record_once(
    tmp_path: Path,
    files: list[list[tuple[int | None, str]]],
    end: str,
    blank: bool,
    bom: bool,
    last: bool,
    cuts: list[int],
) -> None:
    paths = []
    for index, records in enumerate(files):
        lines = ["n,s"]
        for number, text in records:
            quoted = '"' + text.replace('"', '""') + '"'
            lines.append(f"{'' if number is None else number},{quoted}")
            if blank:
                lines.append("")
        body = end.join(lines) + (end if last else "")
        paths.append(tmp_path / f"{index}.csv")
        paths[-1].write_bytes((("\ufeff" if bom else "") + body).encode())
    source = read_csv(paths, column_types={"n": "int64", "s": "string"})
    expected = [record for records in files for record in records]
    bounds = sorted({0, source.bytes, *(min(cut, source.bytes) for cut in cuts)})
    found: list[tuple[int | None, str]] = []
    for start, stop in pairwise(bounds):
        for block in source.read(Partition(0, start, stop), ("s", "n")):
            valid = block.valid.get("n", np.ones(block.rows, bool))
            n, s = values(block, "n").tolist(), values(block, "s").tolist()
            found += [(n[i] if valid[i] else None, s[i]) for i in range(block.rows)]
    assert found == expected
    counted = [b.rows for p in source.partitions() for b in source.read(p, ())]
    assert sum(counted) == len(expected)


def test_spam_data_match_numpy(shared_data: Path) -> None:
    path = shared_data / "spambase.data"
    source = read_csv(path, column_names=[f"c{i}" for i in range(58)])
    block = whole(source)
    found = np.stack([np.asarray(block.columns[n], float) for n in source.schema.names], axis=1)
    np.testing.assert_array_equal(found, np.loadtxt(path, delimiter=","))
    assert str(source.schema["c57"]) == "int64"
