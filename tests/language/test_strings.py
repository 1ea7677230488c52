"""Strings in row functions: Python's own methods are the witness, for all of Unicode."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra.functions import strings
from scalops.engine.witness.interpreter import Interpreter
from tests.language.witness import is_opaque, listed
from tests.quick import repeated

few = settings(max_examples=14)
TEXTS = [
    "Ab c",
    " ß x\u3000",
    None,
    "",
    "ΑΣ",
    "a,b,,c",
    ",",
    "İi",
    "\0a\0",
    "a\u0301b",
    "x\x1cy",
    "🙂",
]
METHODS: dict[str, tuple[Callable[[Any], Any], Callable[[str], Any]]] = {
    "lower": (lambda s: s.str.lower(), str.lower),
    "upper": (lambda s: s.str.upper(), str.upper),
    "strip": (lambda s: s.str.strip(), str.strip),
    "length": (lambda s: s.str.length(), len),
    "split": (lambda s: s.str.split(), str.split),
    "split by a comma": (lambda s: s.str.split(","), lambda s: s.split(",")),
    "contains": (lambda s: s.str.contains("a"), lambda s: "a" in s),
    "contains a dot": (lambda s: s.str.contains("."), lambda s: "." in s),
    "replace": (lambda s: s.str.replace("a", "<a>"), lambda s: s.replace("a", "<a>")),
    "contains, regex": (
        lambda s: s.str.contains(r"^\w$", regex=True),
        lambda s: bool(re.search(r"^\w\Z", s, re.ASCII)),
    ),
    "split, regex": (
        lambda s: s.str.split(r"[, ]+", regex=True),
        lambda s: re.split(r"[, ]+", s),
    ),
    "replace, regex": (
        lambda s: s.str.replace(r"(a)(.)", r"\2\1", regex=True),
        lambda s: re.sub(r"(a)(.)", r"\2\1", s),
    ),
    "concatenation": (lambda s: "<" + s + s, lambda s: "<" + s + s),
    "all together": (
        lambda s: s.str.lower().str.replace("b", "B").str.strip() + ".",
        lambda s: s.lower().replace("b", "B").strip() + ".",
    ),
}
any_method = pytest.mark.parametrize("name", METHODS)


def strings_of(texts: list[Any]) -> so.Table:
    return so.from_arrow(pa.table({"s": pa.array(texts, pa.string())}))


def check(name: str, texts: list[Any]) -> None:
    """The method over a table, record by record and called plainly, against Python's."""
    ours, theirs = METHODS[name]
    expected = [None if t is None else theirs(t) for t in texts]
    made = strings_of(texts).map(lambda r: ours(r.s))
    assert not is_opaque(made)
    assert listed(made) == expected
    interpreted = [r["value"] for r in Interpreter().records(made.plan)]
    assert interpreted == expected
    plain = so.udf(lambda r: None if r.s is None else ours(r.s), returns=made.schema["value"])
    assert listed(strings_of(texts).map(plain)) == expected


@any_method
def test_a_method_is_pythons(name: str) -> None:
    check(name, TEXTS)


@any_method
def test_a_method_of_no_records_and_of_nulls_alone(name: str) -> None:
    check(name, [None, None])
    none = strings_of(TEXTS).filter(lambda r: r.s == "no")
    assert listed(none.map(lambda r: METHODS[name][0](r.s))) == []


# What lies near the borders of words, cases and code points.
letters = st.sampled_from(
    "aAbßΣςİıǆ ,.\t\n\x0b\x1c\x85\xa0\u2003\u200b\u3000\u0301🙂\0\ufdd0\ufdd1"
)


@repeated(3)
@few
@given(
    st.lists(st.none() | st.text(letters | st.characters(codec="utf-8"), max_size=8), max_size=9)
)
def test_every_method_is_pythons_for_any_text(run: int, texts: list[str | None]) -> None:
    table = strings_of(texts)
    made = table.map(lambda r: {name: ours(r.s) for name, (ours, _) in METHODS.items()}).collect()
    for name, (_, theirs) in METHODS.items():
        assert made[name].to_pylist() == [None if t is None else theirs(t) for t in texts]


def test_arrow_and_python_agree_on_what_is_a_space_and_how_many_code_points_there_are() -> None:
    points = [chr(p) for p in range(sys.maxunicode + 1) if not 0xD800 <= p <= 0xDFFF]
    column = pa.array(points)
    spaces = [p for p in points if p.isspace()]
    assert column.filter(pc.utf8_is_space(column)).to_pylist() == spaces
    assert pc.unique(strings.length(column)).to_pylist() == [1]
    texts = [f"{p}a{p}{q}b{p}" for p in spaces for q in (*spaces, "\u200b", "")]
    for name in ("split", "strip"):
        made = getattr(strings, name)(pa.array(texts)).to_pylist()
        assert made == [METHODS[name][1](t) for t in texts]


def test_parts_of_sliced_columns_are_their_own() -> None:
    texts = [f"{i} Ä{i}" if i % 3 else None for i in range(50)]
    for name in METHODS:
        ours, theirs = METHODS[name]
        made = strings_of(texts).slice(7, 20).map(lambda r, f=ours: f(r.s))
        assert listed(made) == [None if t is None else theirs(t) for t in texts[7:27]]


def test_strings_that_differ_by_zeros_at_their_ends_differ() -> None:
    made = strings_of(["a", "a\0"]).map(lambda r: {"e": r.s == "a", "l": r.s < "a\0"})
    assert made.collect().to_pydict() == {"e": [True, False], "l": [True, False]}
    assert [r["e"] for r in Interpreter().records(made.plan)] == [True, False]
    first = strings_of(["a\0"]).max("s")
    assert not (first == "a").collect()


def test_the_mark_of_a_split_by_an_expression_occurs_in_no_text() -> None:
    marks = [chr(c) for c in range(0xFDD0, 0xFDF0)]
    texts = ["".join(marks) + "1x", "a1b"]
    made = strings_of(texts).map(lambda r: r.s.str.split(r"\d", regex=True))
    assert listed(made) == [["".join(marks), "x"], ["a", "b"]]


@pytest.mark.parametrize("pattern", ["^a", "a$", "x*", r"\b", "a|b"])
def test_an_expression_that_is_anchored_or_empty_splits_as_in_python(pattern: str) -> None:
    texts = ["aaa", "", "ba a", "abab"]
    made = strings_of(texts).map(lambda r: r.s.str.split(pattern, regex=True))
    assert listed(made) == [re.split(pattern, t) for t in texts]


def test_strings_at_the_driver() -> None:
    first = strings_of(["b c", "a"]).max("s")
    assert first.str.upper().collect() == "B C"
    assert first.str.split().collect() == ["b", "c"]
    assert first.str.split()[1].str.length().collect() == 1
    assert first.str.split()[5].collect() is None
    assert so.coalesce(first.str.split()[5], "none").collect() == "none"
    assert (first + "!" == "b c!").collect()
    assert so.where(first.str.contains("z"), "z", first.str.replace("b", "d")).collect() == "d c"


def test_a_string_as_a_loops_state() -> None:
    @so.loop({"s": "a", "n": 0}, lambda env: env["n"] < 5)
    def loop(env: Any) -> Any:
        grown = env["s"] + "b"
        return {"s": grown, "n": so.where(grown.str.contains("bbb"), 9, env["n"] + 1)}

    assert loop.collect() == {"s": "abbb", "n": 9}


def test_a_driver_string_joins_a_column() -> None:
    table = strings_of(["x", None])
    last = table.max("s")
    assert listed(table.map(lambda r: r.s + last.str.upper())) == ["xX", None]
    assert listed(table.map(lambda r: last + "y")) == ["xy", "xy"]


def test_strings_are_filtered_reduced_and_chosen() -> None:
    table = strings_of(["spam a", "ham b", None, "spam c"])
    assert listed(table.filter(lambda r: ~r.s.str.contains("ham")), "s") == ["spam a", "spam c"]
    assert table.map(lambda r: so.coalesce(r.s, "-")).reduce(lambda a, b: a + b).collect() == (
        "spam aham b-spam c"
    )
    made = table.map(lambda r: so.where(r.s.str.contains("spam"), r.s.str.split()[1], "?"))
    assert listed(made) == ["a", "?", "?", "c"]


@pytest.mark.parametrize("threads", [1, 2])
def test_strings_are_the_same_for_any_threads_and_little_memory(threads: int) -> None:
    texts = [f"Wort {i} Straße {i % 7}" for i in range(20_000)]
    with so.session(threads=threads, memory="16MB"):
        made = listed(strings_of(texts).map(lambda r: r.s.str.upper().str.split()[2]))
    assert made == ["STRASSE"] * len(texts)


def test_a_function_that_is_opaque_has_the_same_methods() -> None:
    def shout(r: Any) -> Any:
        words = r.s.str.split() if r.s is not None else r.s
        return words[0].str.upper() if words else "none"

    made = strings_of(["a b", "ß", "", None]).map(shout)
    assert is_opaque(made)
    assert listed(made) == ["A", "SS", "none", "none"]
    both = strings_of(["ab"]).map(lambda r: r.s.str.startswith("a"))
    assert is_opaque(both)
    assert listed(both) == [True]


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an expression that RE2 refuses": (
        lambda s: s.str.contains("(?=a)", regex=True),
        "RE2 refuses",
    ),
    "an unfinished expression": (lambda s: s.str.split("(", regex=True), "missing \\)"),
    "a group that is none": (lambda s: s.str.replace("a", r"\3", regex=True), "RE2 refuses"),
    "an empty separator": (lambda s: s.str.split(""), "not empty"),
    "nothing to replace": (lambda s: s.str.replace("", "x"), "not empty"),
    "a number as pattern": (lambda s: s.str.contains(1), "not int"),
    "no expression": (lambda s: s.str.split(regex=True), "needs an expression"),
    "half a character": (lambda s: s.str.contains("\ud800"), "half a character"),
    "a Value as pattern": (lambda s: s.str.contains(so.lit("a")), "not Values"),
    "a column as pattern": (lambda s: s.str.replace("a", s), "not Values"),
    "a sum with a number": (lambda s: s + 1, "add has no meaning for string and int64"),
    "a product": (lambda s: s * 2, "multiply has no meaning"),
    "an array of strings": (lambda s: s == ["a", "b"], "one string at a time"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_meaning_is_refused_when_it_is_written(what: str) -> None:
    program, message = REFUSED[what]
    with pytest.raises(so.TraceError, match=message) as caught:
        strings_of(["a"]).map(lambda r: program(r.s))
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_methods_of_strings_need_a_string() -> None:
    table = so.table({"n": [1]})
    with pytest.raises(so.TraceError, match=r"`\.str` is of strings; this is int64"):
        table.map(lambda r: r.n.str.lower())
    with pytest.raises(so.TraceError, match="no method 'title'"):
        strings_of(["a"]).max("s").str.title()


def test_a_plan_shows_methods_as_they_are_written() -> None:
    made = strings_of(["a b"]).map(lambda r: r.s.str.split(" ")[0].str.contains("a") & (r.s == "x"))
    assert "s.str.split(pattern=' ')[0].str.contains(pattern='a') & (s == 'x')" in made.explain()
