"""The engine gives what plans mean: the interpreter is the witness, on random programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import OutOfMemoryError, ScalopsError
from scalops.algebra.expressions import CONVERGED, ITERATIONS
from scalops.engine.outcome import LoopOutcome
from scalops.engine.storage import block_to_batch
from tests.engine.plans import job_of, run
from tests.optimizer.plans import answer, same_answer
from tests.optimizer.random_programs import random_program
from tests.quick import quick

WAYS = [(1, None), (2, None), (2, 200)]
Row = Callable[[Any], Any]


def found(things: tuple[Any, ...], threads: int, memory: int | None) -> Any:
    """What the engine gives, in the form of the witness's answer."""
    try:
        results = run(things, threads, memory)
    except ScalopsError as error:
        return type(error)
    made: list[Any] = []
    for thing, result in zip(things, results, strict=True):
        if isinstance(result, LoopOutcome):
            counts = {ITERATIONS: result.iterations, CONVERGED: result.converged}
            made.append(result.state | counts)
        elif isinstance(result, list):
            schema = thing.plan.schema
            batches = [block_to_batch(b, schema) for b in result if b.rows]
            made.append([row for b in batches for row in b.to_pylist()])
        else:
            made.append(result)
    return made


def assert_agree(things: tuple[Any, ...], ways: list[Any]) -> Any:
    """Optimized, lowered and run, the program gives what the written plan means."""
    job = job_of(*things)
    expected = answer(job)
    for threads, memory in ways:
        actual = found(things, threads, memory)
        if actual is OutOfMemoryError:
            continue  # an exchange cannot do without memory
        assert same_answer(expected, actual), f"{expected}\n{actual}"
    return expected


@pytest.mark.parametrize("part", quick(range(3), 1))
def test_random_programs_give_what_they_mean(part: int) -> None:
    answers = []
    for seed in range(part * 32, part * 32 + 32):
        answers.append(assert_agree(random_program(Random(seed)), [WAYS[seed % len(WAYS)]]))
    # Most of the programs run through.
    assert sum(not isinstance(a, type) for a in answers) > 16


@pytest.mark.long
@pytest.mark.parametrize("part", range(3, 50))
def test_many_more_random_programs_give_what_they_mean(part: int) -> None:
    for seed in range(part * 32, part * 32 + 32):
        assert_agree(random_program(Random(seed)), [WAYS[seed % len(WAYS)]])


# Strings, nulls, nothing at all, and functions that run record by record.


def text_table(random: Random) -> so.Table:
    """Records with nulls among strings and numbers; sometimes none, sometimes many partitions."""
    rows = random.choice((0, 1, 2, 7, 30))

    def maybe(value: Any) -> Any:
        return None if random.randrange(4) == 0 else value

    words = ["", "a", "ab", "b", "Zé", "\U0001f600", "z"]
    wide = random.choice((2, 20_000))  # few of these records fill a partition
    x = np.array([[random.randrange(-8, 9) / 4] * wide for _ in range(rows)]).reshape(rows, wide)
    return so.from_arrow(
        pa.table(
            {
                "s": pa.array([maybe(random.choice(words)) for _ in range(rows)], pa.string()),
                "u": pa.array([random.choice(words) for _ in range(rows)], pa.string()),
                "f": pa.array(
                    [maybe(random.randrange(-9, 9) / 2) for _ in range(rows)], pa.float64()
                ),
                "k": pa.array([random.randrange(5) for _ in range(rows)], pa.int64()),
                "b": pa.array([maybe(random.randrange(2) == 1) for _ in range(rows)], pa.bool_()),
                "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), wide),
            }
        )
    )


class Writer:
    """Writes programs about strings. Choices are made when a function is written."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.table = text_table(random)

    def one_of(self, *options: Any) -> Any:
        return self.random.choice(options)

    def text(self) -> Row:
        first, second = self.one_of("s", "u"), self.one_of("s", "u")
        p = self.condition(0)
        return self.one_of(  # type: ignore[no-any-return]
            lambda r: r[first],
            lambda r: so.where(p(r), r[first], r[second]),
            lambda r: so.where(p(r), r[first], "m"),
        )

    def condition(self, depth: int = 1) -> Row:
        name, word = self.one_of("s", "u"), self.one_of("", "a", "b", "Zé")
        if depth and self.random.randrange(2):
            p, q = self.condition(0), self.condition(0)
            return self.one_of(lambda r: p(r) & q(r), lambda r: p(r) | q(r), lambda r: ~p(r))  # type: ignore[no-any-return]
        return self.one_of(  # type: ignore[no-any-return]
            lambda r: r[name] == word,
            lambda r: r[name] > word,
            lambda r: r.s <= r.u,
            lambda r: r.b,
            lambda r: r.f > 0.3,
            lambda r: r.x[1] < 0.3,
            lambda r: r.k > 10,
        )

    def number(self) -> Row:
        p = self.condition()
        return self.one_of(  # type: ignore[no-any-return]
            lambda r: r.f * 2,
            lambda r: np.where(p(r), r.f, r.k),
            lambda r: r.f + r.x[0] * r.k,
            lambda r: np.max(r.x) / 4,
        )

    def opaque(self) -> Any:
        limit = self.one_of(-1, 0.5, 3)

        def about(r: Any) -> Any:
            if r.f is None or (r.s is not None and r.s > "b"):
                return {"f": None, "s": None if r.k < 2 else r.u, "k": r.k}
            text = "" if r.s is None else r.s
            return {"f": r.f / 3 if r.f > limit else 0, "s": text + r.u, "k": len(text)}

        return so.udf(about, returns={"f": so.float64, "s": so.string, "k": so.int64})

    def chain(self) -> so.Table:
        t = self.table
        for _ in range(self.random.randrange(4)):
            kind = self.one_of("filter", "with", "limit", "repartition")
            if kind == "filter":
                t = t.filter(self.condition())
            elif kind == "with":
                t = t.with_columns(s=self.text(), f=self.number())
            elif kind == "limit":
                t = t.limit(self.one_of(0, 1, 3, 50))
            else:
                t = t.repartition(self.one_of(1, 2, 5))
        return t

    def fold(self) -> Any:
        t = self.chain()
        if self.random.randrange(4) == 0:
            t = t.map(self.opaque())
            return self.one_of(t.count("s"), t.sum("f"), t.filter(lambda r: r.s > "a").count())
        text, number = self.text(), self.number()
        made = self.one_of("min", "max", "count", "sum", "mean", "reduce", "any", "longest", "last")
        match made:
            case "min" | "max":
                texts = t.map(text)
                return texts.min() if made == "min" else texts.max()
            case "count":
                return t.with_columns(s=text).count("s")
            case "sum":
                return t.sum(number)
            case "mean":
                return t.mean(number)
            case "reduce":
                pairs = t.map(lambda r: {"a": 1 + r.k / 9, "f": number(r)})
                both = pairs.reduce(lambda p, q: {"a": p.a * q.a, "f": p.f * q.a + q.f})
                return both["f"]
            case "any":
                return t.any(self.condition())
            case "longest":
                return t.map(text).reduce(so.udf(_longer, returns=so.string))
            case _:
                return t.map(text).reduce(lambda p, q: q)

    def program(self) -> tuple[Any, ...]:
        wanted: list[Any] = []
        for _ in range(self.one_of(1, 2, 3)):
            kind = self.one_of("table", "fold", "fold", "loop", "opaque")
            if kind == "table":
                wanted.append(self.chain().with_columns(t=self.text(), n=self.number()).drop("x"))
            elif kind == "opaque":
                wanted.append(self.chain().map(self.opaque()))
            elif kind == "fold":
                wanted.append(self.fold())
            else:
                wanted.append(self.loop())
        return tuple(wanted)

    def loop(self) -> Any:
        t, p, number = self.chain(), self.condition(), self.number()
        opaque = self.random.randrange(3) == 0

        def step(r: Any, bound: Any) -> Any:
            return None if r.f is None else (r.f if r.f < bound else 1.0)

        @so.loop({"n": 0.5, "w": "a"}, range(self.one_of(1, 3)), allow_nonfinite=True)
        def model(env: Any) -> Any:
            n, w = env["n"], env["w"]
            kept = t.filter(lambda r: p(r) | (r.u > w))
            total = kept.sum(lambda r: number(r) * np.tanh(n + r.k))
            if opaque:
                total = total + kept.sum(so.udf(lambda r: step(r, n), returns=so.float64))
            return {"n": np.tanh(total / 10), "w": so.where(total > 0.123, "b", w)}

        return model


def _longer(a: str, b: str) -> str:
    return a if len(a) >= len(b) else b


@pytest.mark.parametrize("part", quick(range(5), 1))
def test_programs_about_strings_give_what_they_mean(part: int) -> None:
    answers = []
    for seed in range(part * 32, part * 32 + 32):
        program = Writer(Random(seed)).program()
        answers.append(assert_agree(program, [WAYS[seed % len(WAYS)]]))
    assert sum(not isinstance(a, type) for a in answers) > 16


def empty_table() -> so.Table:
    """No records, by a filter that no optimizer sees through."""
    t = so.table({"x": np.ones((30, 3)), "f": np.arange(30.0), "k": np.arange(30)})
    return t.filter(lambda r: r.f < 0)


@pytest.mark.parametrize(
    ("fold", "value"),
    [
        (lambda t: t.sum("x"), [0.0, 0.0, 0.0]),
        (lambda t: t.sum("k"), 0),
        (lambda t: t.count(), 0),
        (lambda t: t.count("f"), 0),
        (lambda t: t.is_empty(), True),
        (lambda t: t.any(lambda r: r.f > 0), False),
        (lambda t: t.all(lambda r: r.f > 0), True),
        (lambda t: t.mean("f"), math.nan),
        (lambda t: t.mean("x"), [math.nan] * 3),
        (lambda t: t.repartition(3).sum("f"), 0.0),
        (lambda t: t.limit(5).sum("f"), 0.0),
        (lambda t: t.map(so.udf(lambda r: 1.5, returns=so.float64)).sum(), 0.0),
    ],
)
def test_folds_over_no_records(fold: Any, value: Any) -> None:
    assert_agree((fold(empty_table()),), WAYS)
    (result,) = run([fold(empty_table())])
    assert np.array_equal(np.asarray(result), value, equal_nan=isinstance(value, (float, list)))


@pytest.mark.parametrize(
    "fold",
    [
        lambda t: t.min("f"),
        lambda t: t.max("x"),
        lambda t: t.map(lambda r: r.x).reduce(np.add),
        lambda t: t.map(lambda r: r.x).reduce(lambda a, b: a * 0.5 + b),
        lambda t: t.map(lambda r: r.f * r.x).reduce(lambda a, b: a + b),
    ],
)
def test_folds_without_a_value_over_no_records_are_errors(fold: Any) -> None:
    assert assert_agree((fold(empty_table()),), WAYS) is so.DataError


def test_reduce_refuses_a_function_that_gives_none() -> None:
    def product(a: Any, b: Any) -> Any:
        return a * b if a * b < 100 else None

    t = so.table({"x": np.arange(1.0, 9)}).map(lambda r: r.x)
    with pytest.raises(so.UserFunctionError, match="gives None for two records"):
        run([t.reduce(so.udf(product, returns=so.float64))])


def test_rows_of_two_loops_that_use_each_other() -> None:
    t = so.table({"x": np.arange(40.0)})

    @so.loop({"s": 0.5}, range(3))
    def first(env: Any) -> Any:
        return {"s": np.tanh(t.sum(lambda r: np.cos(r.x * env["s"])))}

    s = first["s"]

    @so.loop({"q": 0.1}, range(2))
    def second(env: Any) -> Any:
        return {"q": np.tanh(env["q"] + t.sum(lambda r: np.sin(r.x * s)) * s)}

    for things in ((first, second), (second, first), (second["q"], first, t.sum("x"))):
        assert_agree(things, WAYS)


def test_history_has_the_fields_types() -> None:
    start = {
        "flag": True, "half": np.float16(1), "small": np.int8(1), "big": np.uint64(1 << 63),
        "day": np.datetime64("2020-01-01", "us"), "word": "a", "x": np.zeros(2),
    }  # fmt: skip

    @so.loop(start, range(3))
    def model(env: Any) -> Any:
        return {**{n: env[n] for n in start}, "flag": ~env["flag"], "half": env["half"] / 2}

    history = model.run().history
    assert history.column_names == ["iteration", *list(start)[:-1], "seconds"]
    assert history["flag"].to_pylist() == [False, True, False]
    assert history["half"].to_pylist() == [0.5, 0.25, 0.125]
    assert history["big"].to_pylist() == [1 << 63] * 3
    assert [str(history[n].type) for n in list(start)[:-1]] == [
        "bool", "halffloat", "int8", "uint64", "timestamp[us]", "string",
    ]  # fmt: skip


def test_jobs_are_what_operators_say() -> None:
    assert isinstance(job_of(so.table({"x": np.ones(2)})), op.Job)
