"""Vowpal Wabbit's text means what its documentation says, by both ways of parsing."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from scalops.algebra.errors import DataError, PlanError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.storage import FileSource, Partition, read_vw
from scalops.engine.storage.vw_hash import murmur3
from scalops.engine.storage.vw_lines import LineRecords
from scalops.engine.storage.vw_parser import VwParser
from tests.engine.storage.reading import layout, whole
from tests.quick import repeated

EVERY = ("y", "weight", "base", "tag", "x")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(contents: bytes | str, name: str = "a.vw", **options: Any) -> FileSource:
    data = contents.encode() if isinstance(contents, str) else contents
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_vw(name, **options)


def parser_of(source: FileSource) -> VwParser:
    parser = source.contents.parser  # type: ignore[attr-defined]
    assert isinstance(parser, VwParser)
    return parser


def records(block: Block) -> list[tuple[Any, ...]]:
    """(label or None, weight, base, tag, {index: value}) of each record."""
    columns, valid = block.columns, block.valid
    x = columns["x"]
    known = {n: valid.get(n, np.ones(block.rows, bool)) for n in ("y", "weight", "base")}
    numbers = [
        [float(v) if ok else None for v, ok in zip(columns[n], known[n], strict=True)]
        for n in ("y", "weight", "base")
    ]
    pairs = []
    for a, b in pairwise(x.indptr):
        assert (np.diff(x.indices[a:b]) > 0).all()
        pairs.append(dict(zip(x.indices[a:b].tolist(), x.values[a:b].tolist(), strict=True)))
    return list(zip(*numbers, columns["tag"].to_pylist(), pairs, strict=True))


def number(name: str, seed: int) -> int:
    """Vowpal Wabbit's rule, by scikit-learn's hash."""
    if name.isascii() and name.isdigit():
        return int(name) + seed
    return int(murmurhash3_32(name.encode(), seed % 2**32, positive=True))


def expected(text: str, bits: int = 18) -> list[tuple[Any, ...]]:
    """The records of plain lines, read naively."""
    found: list[tuple[Any, ...]] = []
    for line in text.replace("\r", " ").split("\n"):
        if not line.strip(" \t"):
            continue
        head, *spaces = line.replace("\t", " ").split("|")
        words, tag = head.split(), ""
        if words and (words[-1][0] == "'" or head[-1] != " "):
            tag = words.pop().removeprefix("'")
        numbers: list[float | None] = [*map(float, words), *(None, 1.0, 0.0)[len(words) :]]
        x: dict[int, float] = {}
        for space in spaces:
            named, seed, scale = space[:1].strip(), 0, 1.0
            features = space.split()
            if named:
                name, _, value = features.pop(0).partition(":")
                seed, scale = number(name, 0), float(value or 1)
            for feature in features:
                name, _, value = feature.partition(":")
                index = number(name, seed) % 2**bits
                x[index] = x.get(index, 0.0) + scale * float(value or 1)
        found.append((*numbers, tag, x))
    return found


def test_names_are_hashed_as_in_its_tutorial() -> None:
    """The indices that `vw --audit` prints for these lines."""
    text = (
        "0 | price:.23 sqft:.25 age:.05 2006\n"
        "1 2 'second_house | price:.18 sqft:.15 age:.35 1976\n"
        "0 1 0.5 'third_house | price:.53 sqft:.32 age:.87 1924\n"
    )
    found = records(whole(of(text)))
    assert found == [
        (0, 1, 0, "", {229902: 0.23, 162853: 0.25, 165201: 0.05, 2006: 1}),
        (1, 2, 0, "second_house", {229902: 0.18, 162853: 0.15, 165201: 0.35, 1976: 1}),
        (0, 1, 0.5, "third_house", {229902: 0.53, 162853: 0.32, 165201: 0.87, 1924: 1}),
    ]
    assert [116060 in x for *_, x in records(whole(of(text, constant=True)))] == [True] * 3


@repeated(3)
@settings(max_examples=30)
@given(st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 2**32 - 1)), max_size=20))
def test_hash_is_murmur3(run: int, names: list[tuple[bytes, int]]) -> None:
    text = np.frombuffer(b"".join(name for name, _ in names), np.uint8)
    lengths = np.array([len(name) for name, _ in names], np.int64)
    seeds = np.array([seed for _, seed in names], np.uint32)
    found = murmur3(text, np.cumsum(lengths) - lengths, lengths, seeds)
    assert found.tolist() == [murmurhash3_32(n, seed, positive=True) for n, seed in names]


FORMS = [
    "1 |f a b:2 c:.5\n-1 |f b:1e-3 |g a\n",
    "+1 |a x:+3 y:-2|b:2 x:.5 7\r\n| x\n",
    "1 2 3 'tag|f a\n1|f a\n1 |f a\n'only| a\n",
    " 1\t2  'tag |f\ta  b \n\n \t\n-1 |\n",
    "1 | a a:2 b a\n2 |f 3 3 003\n",
    "1 |12 5 a\n1 | 5 99999999999999999999999\n",
    "0 'ü|é ü:2\n",
    "1 |f a:nan b:inf |\n",
]


@pytest.mark.parametrize("text", FORMS)
def test_forms_of_lines(text: str) -> None:
    found = whole(of(text))
    for record, other in zip(records(found), expected(text), strict=True):
        assert repr(record[:4]) == repr(other[:4])
        assert repr(sorted(record[4].items())) == repr(sorted(other[4].items()))
    assert repr(records(whole(of(text, "a.vw.gz")))) == repr(records(found))


@pytest.mark.parametrize("text", FORMS)
def test_both_ways_of_parsing_agree_and_usual_text_takes_the_fast_one(text: str) -> None:
    parser = parser_of(of(text))
    fast = parser._vectorised(text.encode())
    assert fast is not None
    lines = LineRecords(parser._index_of)
    for line in parser.lines(text.encode()):
        lines.add(line)
    found = repr(records(parser._block(fast, EVERY)))
    assert found == repr(records(parser._block(lines.records(), EVERY)))


def test_a_tag_may_hold_what_else_separates() -> None:
    ((label, *_, tag, x),) = records(whole(of("1 'a:b,c|f :2 :3\n")))
    seed = number("f", 0)
    assert (label, tag) == (1, "a:b,c")
    assert x == {seed % 2**18: 2, (seed + 1) % 2**18: 3}  # features without names are counted


def test_names_are_indices_with_n_features() -> None:
    source = of("1 |f 3:2 0 |g 3\n", n_features=5)
    assert (
        str(source.schema)
        == "y: float64, weight: float64, base: float64, tag: string, x: sparse[5]"
    )
    assert records(whole(source)) == [(1, 1, 0, "", {0: 1, 3: 3})]
    assert str(of("1 |f a\n", bits=5).schema["x"]) == "sparse[32]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x |f a", "the label 'x' is no number"),
        ("1 x |f a", "the importance 'x' is no number"),
        ("1 1 x |f a", "the base 'x' is no number"),
        ("1:2:0.4 |f a", r"'1:2:0.4' is no label; read_vw reads simple labels, \[label"),
        ("1:1 2:0 |f a", "'1:1 2:0' is no label"),
        ("1,3 |f a", "'1,3' is no label"),
        ("shared |f a", "the label 'shared' is no number; read_vw reads simple labels"),
        ("1 2 3 4 |f a", "'1 2 3 4' is no label"),
        ("1 f a", r"it has no '\|', which begins the features"),
        ("1 |f a:b", "the value in 'a:b' is no number"),
        ("1 |f a:", "the value in 'a:' is no number"),
        ("1 |f a:1:2", "the value in 'a:1:2' is no number"),
        ("1 |f a:0x1", "the value in 'a:0x1' is no number"),
        ("1 |f a:1_0", "the value in 'a:1_0' is no number"),
        ("1 |:2 a", "':2 a' has no namespace before its ':'"),
        ("1 |f:x a", "the value in 'f:x' is no number"),
        ("+ |f a", r"the label '\+' is no number"),
        (b"1 '\xff|f a", r"the tag '\\\\xff' is no UTF-8"),
    ],
)
def test_line_that_does_not_fit_is_named(line: str | bytes, message: str) -> None:
    bad = line if isinstance(line, bytes) else line.encode()
    text = b"1 |f a\n\n" + bad + b"\n-1 |f b\n"
    with pytest.raises(DataError, match=rf"a\.vw:3: {message}"):
        of(text)
    assert [r[0] for r in records(whole(of(text, on_error="skip")))] == [1, -1]
    found = records(whole(of(text, on_error="null")))
    assert [r[0] for r in found] == [1, None, -1]
    assert found[1] == (None, None, None, None, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [("a", "the feature 'a' is no number"), ("5", "the feature '5' is greater than n_features")],
)
def test_feature_that_is_no_index_is_named_with_its_line(name: str, message: str) -> None:
    lines = ["1 |f 1:1"] * 30_000
    lines[20_000] = f"1 |f {name}:2"
    source = of("\n".join(lines), n_features=5)
    with pytest.raises(DataError, match=rf":20001: {message}"):
        whole(source)


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 0},
        {"bits": 31},
        {"bits": True},
        {"n_features": 0},
        {"n_features": 1.5},
        {"bits": 18, "n_features": 3},
        {"constant": 1},
        {"constant": True, "n_features": 3},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        of("1 |f 1", **options)


def test_blocks_and_partitions_follow_the_bytes() -> None:
    rng = np.random.default_rng(0)
    texts = [
        f"{y:.3f} {w} 'r{i}|f " + " ".join(f"w{k}:{v}" for k, v in enumerate(row))
        for i, (y, w, row) in enumerate(
            zip(rng.random(9_000), rng.integers(1, 9, 9_000), rng.integers(0, 99, (9_000, 8)),
                strict=True)
        )
    ]  # fmt: skip
    source = of("\n".join(texts))
    assert len(source.partitions()) > 1
    assert layout(source, ("y",)) == layout(source, ("x", "y")) == layout(source, ())
    assert records(whole(source)) == expected("\n".join(texts))
    assert source.head(7, ("x",)).rows == 7


def test_real_data_are_what_a_plain_parser_reads(shared_data: Path) -> None:
    path = shared_data / "rcv1_small.vw"
    if not path.exists():
        pytest.skip(f"no file {path}")
    rows = [line.split("|f", 1) for line in path.read_text().splitlines()[:300]]
    pairs = [[token.split(":") for token in features.split()] for _, features in rows]
    matrix = sp.csr_array(
        (
            [float(v) for row in pairs for _, v in row],
            [int(i) for row in pairs for i, _ in row],
            np.cumsum([0, *map(len, pairs)]),
        ),
        shape=(300, 47_237),
    )
    head = read_vw(path, n_features=47_237).head(300, EVERY)
    x = head.columns["x"]
    np.testing.assert_array_equal(head.columns["y"], [float(label) for label, _ in rows])
    np.testing.assert_array_equal(x.indptr, matrix.indptr)
    np.testing.assert_array_equal(x.indices, matrix.indices)
    np.testing.assert_array_equal(x.values, matrix.data)


names = st.sampled_from(["a", "b", "long_name", "7", "12", "é", "x1", "0"])
numbers = st.sampled_from(["", ":1", ":.5", ":-2e3", ":7."])
blanks = st.sampled_from([" ", "  ", "\t"])


@st.composite
def vw_lines(draw: Callable[..., Any]) -> str:
    if draw(st.integers(0, 6)) == 0:
        return str(draw(st.sampled_from(["", "  ", "\t"])))
    words = draw(st.lists(st.sampled_from(["1", "-1", "+.5", "2e1"]), max_size=3))
    text = "".join(word + draw(blanks) for word in words)
    text += draw(st.sampled_from(["", "'t", "'", "'a "]))
    for _ in range(draw(st.integers(1, 3))):
        text += "|" + draw(st.one_of(st.just(""), st.builds(str.__add__, names, numbers)))
        for _ in range(draw(st.integers(0, 4))):
            text += draw(blanks) + draw(names) + draw(numbers)
        text += draw(st.sampled_from(["", " "]))
    return str(text)


@repeated(3)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=34)
@given(
    rows=st.lists(vw_lines(), max_size=8),
    bits=st.sampled_from([2, 18, 30]),
    end=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_random_lines_in_any_ranges(
    run: int, tmp_path: Path, rows: list[str], bits: int, end: str, cuts: list[int]
) -> None:
    path, text = tmp_path / "a.vw", end.join([*rows, "1 | a"])
    path.write_bytes(text.encode())
    source = read_vw(path, bits=bits)
    found = records(whole(source))
    for record, other in zip(found, expected(text, bits), strict=True):
        assert record[:4] == other[:4]
        assert record[4].keys() == other[4].keys()
        for index, value in other[4].items():
            assert record[4][index] == pytest.approx(value)
    bounds = sorted({0, source.bytes, *(min(cut, source.bytes) for cut in cuts)})
    parts = [
        record
        for start, stop in pairwise(bounds)
        for block in source.read(Partition(0, start, stop), EVERY)
        for record in records(block)
    ]
    assert parts == found


@repeated(3)
@settings(max_examples=67)
@given(
    st.lists(
        st.sampled_from([b"1", b":", b" ", b"\n", b"+", b"|", b"'", b"a", b".", b"\x01", b"\xff"]),
        max_size=14,
    )
)
def test_fast_way_takes_nothing_that_the_slow_way_refuses(run: int, parts: list[bytes]) -> None:
    data = b"".join(parts)
    parser = VwParser((), Schema(()), 2**18, False, False)
    fast = parser._vectorised(data) if data else None
    if fast is None:
        return
    lines = LineRecords(parser._index_of)
    for line in parser.lines(data):
        lines.add(line)
    found = repr(records(parser._block(fast, EVERY)))
    assert found == repr(records(parser._block(lines.records(), EVERY)))
