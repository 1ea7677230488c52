"""libsvm's format means what scikit-learn's loader makes of it, by both ways of parsing."""

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
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from scalops.algebra.errors import DataError, PlanError
from scalops.engine.blocks import Block
from scalops.engine.storage import FileSource, Partition, read_libsvm
from scalops.engine.storage.libsvm_parser import LibsvmParser, greatest_index, tokens
from tests.engine.storage.reading import layout, whole
from tests.quick import repeated


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(contents: bytes | str, name: str = "a.svm", **options: Any) -> FileSource:
    data = contents.encode() if isinstance(contents, str) else contents
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_libsvm(name, **options)


def arrays(block: Block) -> tuple[Any, Any]:
    """Labels, NaN for null, and the matrix."""
    y, x = block.columns["y"], block.columns["x"]
    y = np.where(block.valid.get("y", np.ones(block.rows, bool)), y, np.nan)
    return y, sp.csr_array((x.values, x.indices, x.indptr), (block.rows, x.dimension))


def assert_same(found: Block, expected: tuple[Any, Any]) -> None:
    y, x = arrays(found)
    np.testing.assert_array_equal(y, expected[1])
    np.testing.assert_array_equal(x.indptr, expected[0].indptr)
    np.testing.assert_array_equal(x.indices, expected[0].indices)
    np.testing.assert_array_equal(x.data, expected[0].data)


FORMS = [
    "1 1:0.5 3:2\n-1 2:1e-3\n",
    "+1 1:0.5 3:+2\n-1 2:-1E+3 3:.5",
    "1 1:5. 2:1\r\n0 3:1\r\n",
    "  1\t1:1  3:2  \n\n\n-1 3:1 \n",
    "# a comment: 7:1\n1 3:1 # 9:1\n#\n2 1:2\n",
    "3 qid:1 1:2 3:4\n1 qid:12 2:1 # x\n",
    "1\n2\n3 3:1\n",
    "1 1:nan 2:inf 3:-Infinity\n",
    "1.5e2 3:0\n",
    "1 000001:1 0003:2\n",
    "1 1:1e400 3:1e-400\n",
    "1 3:0.1234567890123456789012345678901234567890\n",
    "\ufeff1 3:1\n",
]


@pytest.mark.parametrize("text", FORMS)
def test_forms_of_lines_match_scikit_learn(text: str) -> None:
    source = of(text)
    Path("b.svm").write_bytes(text.removeprefix("\ufeff").encode())
    expected = load_svmlight_file("b.svm", n_features=3, zero_based=False)
    assert str(source.schema) == "y: float64, x: sparse[3]"
    assert_same(whole(source), expected)
    assert_same(whole(of(text, "a.svm.gz")), expected)
    only = [b for p in source.partitions() for b in source.read(p, ("y",))]
    assert sum(b.rows for b in only) == len(expected[1])


@pytest.mark.parametrize("text", FORMS)
def test_both_ways_of_parsing_agree(text: str) -> None:
    source = of(text)
    parser = source.contents.parser  # type: ignore[attr-defined]
    data = text.removeprefix("\ufeff").encode()
    assert_same(
        parser._line_by_line(data, ("y", "x")),
        arrays(parser.parse(0, data, ("y", "x")))[::-1],
    )


def test_usual_text_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Block:
        raise AssertionError("line by line")

    monkeypatch.setattr(LibsvmParser, "_line_by_line", refuse)
    for text in FORMS:
        whole(of(text))


@pytest.mark.parametrize("zero_based", [False, True])
def test_indices_count_from_one_or_zero(zero_based: bool) -> None:
    matrix = sp.random_array((500, 40), density=0.2, rng=0, format="csr")
    y = np.random.default_rng(0).integers(0, 3, 500)
    dump_svmlight_file(matrix, y, "a.svm", zero_based=zero_based)
    expected = load_svmlight_file("a.svm", n_features=40, zero_based=zero_based)
    assert_same(whole(read_libsvm("a.svm", zero_based=zero_based)), expected)
    wide = read_libsvm("a.svm", n_features=50, zero_based=zero_based)
    assert str(wide.schema["x"]) == "sparse[50]"


def test_dimension_is_the_greatest_index_of_all_files() -> None:
    of("1 5:1\n", "1.svm")
    of("1 2:1 31:2\n1\n", "2.svm.gz")
    of("", "3.svm")
    source = read_libsvm([Path("1.svm"), Path("2.svm.gz"), Path("3.svm")])
    assert str(source.schema["x"]) == "sparse[31]"
    assert whole(source).rows == 3
    assert str(of("").schema["x"]) == "sparse[0]"
    assert str(of("1\n2\n").schema["x"]) == "sparse[0]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x 1:1", "the label 'x' is no number"),
        ("1,2 1:1", "the label '1,2' is no number"),
        ("1 2", "'2' is no index:value"),
        ("1 2 1:1", "'2' is no index:value"),
        ("1:1 2:2", "the label '1:1' is no number"),
        ("1 1:", "the value in '1:' is no number"),
        ("1 :1", "':1' has no number as its index"),
        ("1 1: 2", "the value in '1:' is no number"),
        ("1 1 :2", "'1' is no index:value"),
        ("1 1:2:3", "the value in '1:2:3' is no number"),
        ("1 1:1_0", "the value in '1:1_0' is no number"),
        ("1 1:0x1", "the value in '1:0x1' is no number"),
        ("1 1.0:1", "'1.0:1' has no number as its index"),
        ("1 a:1", "'a:1' has no number as its index"),
        ("1 1:1 qid:3", "'qid:3' has no number as its index"),
        ("1 qid:x 1:1", "'qid:x' is no query number"),
        ("1 0:1", "the index 0 is less than 1; give zero_based=True"),
        ("1 -1:1", "the index -1 is less than 1"),
        ("1 1:+ 2:1", r"the value in '1:\+' is no number"),
        ("+ 1:1", r"the label '\+' is no number"),
        ("1 2:1 1:1", "the index 1 comes after 2; indices must ascend"),
        ("1 2:1 2:1", "the index 2 comes after 2"),
        ("1 9:1 2:1", "the index 9 is followed by a lesser one"),
        ("1 99999999999:1", r"the index 99999999999 is greater than 2\*\*31 - 1"),
        ("\x00\x01 1:1", r"the label '\\x00\\x01' is no number"),
    ],
)
def test_line_that_does_not_fit_is_named(line: str, message: str) -> None:
    text = f"1 1:1 3:1\n\n{line}\n1 2:1\n"
    with pytest.raises(DataError, match=rf"a\.svm:3: {message}"):
        of(text)
    skipped = of(text, on_error="skip")
    y, x = arrays(whole(skipped))
    assert y.tolist() == [1, 1]
    assert x.nnz == 3
    y, x = arrays(whole(of(text, on_error="null")))
    np.testing.assert_array_equal(y, [1, np.nan, 1])
    assert np.diff(x.indptr).tolist() == [2, 0, 1]


def test_index_beyond_n_features_is_named_with_its_line() -> None:
    lines = ["1 1:1 2:1"] * 30_000
    lines[20_000] = "1 1:1 3:1"
    source = of("\n".join(lines), n_features=2)
    with pytest.raises(DataError, match=r":20001: the index 3 is greater than n_features allows"):
        whole(source)


@pytest.mark.parametrize("options", [{"n_features": -1}, {"n_features": 1.5}, {"zero_based": 1}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        of("1 1:1", **options)


def test_blocks_and_partitions_follow_the_bytes() -> None:
    rng = np.random.default_rng(0)
    matrix = sp.random_array((20_000, 200), density=0.05, rng=rng, format="csr")
    dump_svmlight_file(matrix, rng.random(20_000), "a.svm", zero_based=False)
    source = read_libsvm("a.svm")
    assert len(source.partitions()) > 5
    assert layout(source, ("y",)) == layout(source, ("x", "y")) == layout(source, ())
    assert_same(whole(source), load_svmlight_file("a.svm", n_features=source.schema["x"].shape[0]))
    assert source.head(7, ("x",)).rows == 7


numbers = st.one_of(
    st.floats(allow_nan=False, width=64).map(repr),
    st.sampled_from(["0", "-0", "1e5", "+.5", "7.", "1E-3", "1e+2", "inf", "00.10", "4.9e-324"]),
)
spaces = st.sampled_from([" ", "  ", "\t", " \t "])


@st.composite
def svm_lines(draw: Callable[..., Any]) -> str:
    if draw(st.integers(0, 6)) == 0:
        return str(draw(st.sampled_from(["", "  ", "# c 1:2", "\t#"])))
    words = [draw(numbers)]
    if draw(st.integers(0, 4)) == 0:
        words.append(f"qid:{draw(st.integers(0, 9))}")
    for index in sorted(draw(st.sets(st.integers(1, 30), max_size=4))):
        words.append(f"{index}:{draw(numbers)}")
    text = draw(st.sampled_from(["", " "]))
    for word in words:
        text += word + draw(spaces)
    return str(text + draw(st.sampled_from(["", "# 3:1", "#"])))


@repeated(3)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=34)
@given(
    rows=st.lists(svm_lines(), max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_random_lines_match_scikit_learn_in_any_ranges(
    run: int, tmp_path: Path, rows: list[str], end: str, cuts: list[int]
) -> None:
    path = tmp_path / "a.svm"
    path.write_bytes(end.join([*rows, "1 30:1"]).encode())
    expected = load_svmlight_file(str(path), n_features=30, zero_based=False)
    source = read_libsvm(path)
    assert_same(whole(source), expected)
    bounds = sorted({0, source.bytes, *(min(cut, source.bytes) for cut in cuts)})
    labels = [
        block.columns["y"]
        for start, stop in pairwise(bounds)
        for block in source.read(Partition(0, start, stop), ("y", "x"))
    ]
    np.testing.assert_array_equal(np.concatenate(labels), expected[1])
    assert source.contents.parser.dimension == 30  # type: ignore[attr-defined]


@repeated(3)
@settings(max_examples=67)
@given(
    st.lists(st.sampled_from([b"1", b":", b" ", b"\n", b"+", b"-", b".", b"e", b"#"]), max_size=14)
)
def test_fast_way_takes_nothing_that_the_slow_way_refuses(run: int, parts: list[bytes]) -> None:
    data = b"".join(parts)
    found = tokens(data) if data else None
    if found is None or b"#" in data:
        return
    words = [line.split() for line in data.split(b"\n") if line.split()]
    assert found[0].tolist() == [float(line[0]) for line in words]
    pairs = [word.split(b":") for line in words for word in line[1:]]
    assert found[2].tolist() == [int(index) for index, _ in pairs]
    assert found[3].tolist() == [float(value) for _, value in pairs]


def test_greatest_index_looks_at_the_last_of_each_line() -> None:
    assert greatest_index(b"1 2:1 17:3\n1 5:1 # 99:1\n3\n\n2 qid:77\n") == 17
    assert greatest_index(b"1 2:1 123456789:3") == 123456789
    assert greatest_index(b"1 99999999999:3\n1 4:1") == 4
    assert greatest_index(b":") == greatest_index(b"") == -1 or greatest_index(b":") == 0
