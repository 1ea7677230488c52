"""Opaque aggregates: states of any structure, the same in this process and in workers."""

from __future__ import annotations

import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scalops.algebra.errors import UserFunctionError, WorkerLost
from scalops.capture import capture
from scalops.engine.opaque.arguments import Argument, Column
from scalops.engine.opaque.folds import AggregateFunctions, OpaqueFold
from scalops.engine.opaque.packed import pack, unpack
from scalops.engine.opaque.pieces import PIECES, piece_bounds, task_bounds, task_pieces
from scalops.engine.processes.runner import ProcessRunner
from scalops.engine.reduction import combine_tree

ROWS, BLOCK = 1000, 128
rng = np.random.default_rng(3)
KEYS = [f"k{i}" for i in rng.integers(0, 9, ROWS)]
VALUES = rng.normal(size=ROWS)
V77 = float(VALUES[77])
RECORDS = Argument(("k", "v"), (Column(pa.array(KEYS), None), Column(VALUES, None)))


@pytest.fixture(scope="module")
def runners() -> Iterator[dict[int, ProcessRunner | None]]:
    """No workers, one, two and three."""
    made: dict[int, ProcessRunner | None] = {n: ProcessRunner(n) if n else None for n in range(4)}
    yield made
    for runner in made.values():
        if runner is not None:
            runner.stop()


def functions(
    add: Callable[..., Any],
    merge: Callable[..., Any],
    zero: Any = None,
    **others: Callable[..., Any],
) -> AggregateFunctions:
    """As they were when the aggregate was written."""
    captured = {name: capture(f)[0] for name, f in others.items()}
    return AggregateFunctions(capture(add)[0], capture(merge)[0], zero=zero, **captured)


def folded(own: AggregateFunctions, runner: ProcessRunner | None, rows: int = ROWS) -> Any:
    """The aggregate over blocks of records, as a reduction does it."""
    fold = OpaqueFold(own, ("k", "v"), runner)
    fold.bind(lambda captured: [], 0)
    leaves: list[bytes] = []
    for leaf in range(0, rows, 2 * BLOCK):  # four leaves, of blocks one after the other
        state = None
        for a in range(leaf, min(rows, leaf + 2 * BLOCK), BLOCK):
            b = min(rows, a + BLOCK)
            state = fold.extend(state, RECORDS.slice(a, b), b - a, ("block", a))
        assert state is not None
        leaves.append(state)
    return fold.finish_state(combine_tree(leaves, fold.merge_states) if leaves else None)


def add(state: Any, r: Any) -> Any:
    """Sum and count per key."""
    total = state.setdefault(r.k, [0.0, 0])
    total[0] += r.v
    total[1] += 1
    return state


def merge(a: Any, b: Any) -> Any:
    """Totals of two runs."""
    for k, (v, n) in b.items():
        total = a.setdefault(k, [0.0, 0])
        total[0] += v
        total[1] += n
    return a


def test_dict_of_lists_is_the_same_everywhere(runners: dict[int, ProcessRunner | None]) -> None:
    found = [folded(functions(add, merge, {}), r) for r in runners.values()]
    expected: Any = {}
    for k, v in zip(KEYS, VALUES.tolist(), strict=True):
        add(expected, type("R", (), {"k": k, "v": v}))
    assert list(found[0]) == list(expected)  # keys by first appearance
    for k, (total, count) in expected.items():
        assert found[0][k][0] == pytest.approx(total)
        assert found[0][k][1] == count
    assert len({pack(f) for f in found}) == 1  # to the last bit


@pytest.mark.parametrize(
    ("zero", "step", "join", "expected"),
    [
        (0, lambda s, r: s + 1, lambda a, b: a + b, ROWS),
        ("", lambda s, r: max(s, r.k), max, max(KEYS)),
        ((0.0, None), lambda s, r: (s[0], r.k), lambda a, b: (a[0], b[1]), (0.0, KEYS[-1])),
        ([], lambda s, r: [*s, r.k], lambda a, b: a + b, KEYS),
        (Counter(), lambda s, r: s + Counter([r.k]), lambda a, b: a + b, Counter(KEYS)),
        ({}, lambda s, r: s | {(r.k, 1): True}, lambda a, b: a | b, {(k, 1): True for k in KEYS}),
        (None, lambda s, r: r.k if s is None else s, lambda a, b: a or b, KEYS[0]),
    ],
)
def test_states_of_every_structure(
    runners: dict[int, ProcessRunner | None], zero: Any, step: Any, join: Any, expected: Any
) -> None:
    for runner in (runners[0], runners[2]):
        found = folded(functions(step, join, zero), runner)
        assert found == expected
        assert type(found) is type(expected)


def test_array_states(runners: dict[int, ProcessRunner | None]) -> None:
    def moments(s: Any, r: Any) -> Any:
        s += np.array([1.0, r.v, r.v * r.v])  # in place: each piece has a zero of its own
        return s

    found = [folded(functions(moments, np.add, np.zeros(3)), r) for r in runners.values()]
    np.testing.assert_allclose(found[0], [ROWS, VALUES.sum(), VALUES @ VALUES])
    assert len({f.tobytes() for f in found}) == 1


def test_default_dicts_keep_their_default(runners: dict[int, ProcessRunner | None]) -> None:
    def longest(s: Any, r: Any) -> Any:
        s[r.k].append(r.v)
        return s

    def both(a: Any, b: Any) -> Any:
        for k, v in b.items():
            a[k].extend(v)
        return a

    for runner in (runners[0], runners[2]):
        found = folded(functions(longest, both, defaultdict(list)), runner)
        assert found["k3"] == [v for k, v in zip(KEYS, VALUES.tolist(), strict=True) if k == "k3"]


def test_initialize_and_finalize(runners: dict[int, ProcessRunner | None]) -> None:
    own = functions(
        lambda s, r: [*s, r.v],
        lambda a, b: a + b,
        initialize=list,
        finalize=lambda s: (len(s), sum(s)),
    )
    for runner in (runners[0], runners[2]):
        assert folded(own, runner) == (ROWS, pytest.approx(VALUES.sum()))
        assert folded(own, runner, rows=0) == (0, 0)


def test_over_no_records_the_zero_is_the_result(runners: dict[int, ProcessRunner | None]) -> None:
    for runner in (runners[0], runners[2]):
        assert folded(functions(add, merge, {"a": [1.0, 2]}), runner, rows=0) == {"a": [1.0, 2]}


def test_values_of_the_iteration_are_bound(runners: dict[int, ProcessRunner | None]) -> None:
    import scalops as so

    w = so.table({"v": np.arange(3.0)}).sum()
    captured, slots = capture(lambda s, r: s + r.v * w)
    assert len(slots) == 1
    own = AggregateFunctions(captured, capture(lambda a, b: a + b)[0], zero=0.0)
    for runner in (runners[0], runners[2]):
        fold = OpaqueFold(own, ("k", "v"), runner)
        for version, value in enumerate((2.0, 3.0)):
            fold.bind(lambda c, v=value: [v] if c is captured else [], version)  # type: ignore[misc]
            state = fold.extend(None, RECORDS, ROWS)
            assert fold.finish_state(state) == pytest.approx(VALUES.sum() * value)


@pytest.mark.parametrize(
    ("step", "join", "message"),
    [
        (lambda s, r: {1, 2}, max, "a state that holds a set"),
        (
            lambda s, r: s + 1 / (r.v - V77),
            max,
            r"ZeroDivisionError.*the record is \{'k': 'k.', 'v': ",
        ),
        (lambda s, r: r.z, max, "a record has no column 'z'"),
        (lambda s, r: 0, lambda a, b: a.missing, "raised AttributeError"),
        (lambda s, r: 0, lambda a, b: object(), "a state that holds a object"),
    ],
)
def test_errors_name_function_and_record(
    runners: dict[int, ProcessRunner | None], step: Any, join: Any, message: str
) -> None:
    for runner in (runners[0], runners[2]):
        with pytest.raises(Exception, match=message) as caught:
            folded(functions(step, join, 0.0), runner)
        assert caught.value.location is not None  # type: ignore[attr-defined]
        assert caught.value.location.file == __file__  # type: ignore[attr-defined]


def test_the_failing_record_is_the_first(runners: dict[int, ProcessRunner | None]) -> None:
    def fails(s: Any, r: Any) -> Any:
        if r.v < -1:
            raise ValueError
        return s

    first = VALUES[VALUES < -1][0]
    for runner in runners.values():
        with pytest.raises(
            UserFunctionError, match=f"'v': {first!r}".replace("np.float64(", "").rstrip(")")
        ):
            folded(functions(fails, merge, {}), runner)


def test_a_killed_worker_changes_no_bit(
    runners: dict[int, ProcessRunner | None], tmp_path: Path
) -> None:
    marker = str(tmp_path / "died")

    def dies_once(s: Any, r: Any) -> Any:
        if r.v == V77 and os.getpid() != driver:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return add(s, r)

    driver = os.getpid()
    found = folded(functions(dies_once, merge, {}), runners[2])
    assert os.path.exists(marker)
    assert pack(found) == pack(folded(functions(add, merge, {}), None))


def test_a_transition_that_ends_its_process_is_given_up(
    runners: dict[int, ProcessRunner | None],
) -> None:
    with pytest.raises(WorkerLost, match="3 times"):
        folded(functions(lambda s, r: os._exit(7), merge, {}), runners[2])


def test_pieces_do_not_depend_on_workers() -> None:
    for rows in (0, 1, 2, 3, 5, 128, 1001):
        pieces = piece_bounds(rows)
        assert pieces[0][0] == 0
        assert pieces[-1][1] == rows
        assert len(pieces) <= PIECES
        for workers in (1, 2, 3, 4, 9):
            cut = [
                (a + x, a + y)
                for a, b in task_bounds(rows, workers)
                for x, y in task_pieces(a, b, rows)
            ]
            assert cut == pieces


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1.5, 2], ("x", 1): {}}, 1 << 80, -(1 << 70), (1, (2,)), np.float32(2.5), b"ab",
        Counter("aab"), defaultdict(list, {1: [2]}), None, True, [None, {}], 2.0**-1074,
    ],
)  # fmt: skip
def test_states_come_out_as_they_went_in(value: Any) -> None:
    found = unpack(pack(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", pack((1, 2))[:-1], b"\xc7\x01\x55\xc0", b"\xc7\x02\x01\x00|"]
)
def test_bytes_without_sense_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        unpack(data)
