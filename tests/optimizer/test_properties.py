"""What is known of a table before it is made: keys, order, where equal records lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column
from scalops.optimizer.properties import UniqueKeys, is_ordered, keeps_records, same_keys

T = so.table({"k": np.array([0, 1, 1]), "v": np.arange(3.0), "x": np.ones((3, 2))})
U = T.select("k", w="v")
SUMS = T.group_by("k").agg(s=so.sum("v"))
PAIRS = T.group_by("k", "v").agg(n=so.count())


def keys(table: so.Table) -> set[str]:
    """The keys of a table, each as its columns in order."""
    return {" ".join(sorted(key)) for key in UniqueKeys(table.plan).of(table.plan)}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (T, set()),
        (T.distinct("k"), {"k"}),
        (U.distinct(), {"k w"}),
        (T.with_row_index(), {"index"}),
        (T.with_row_index().filter(lambda r: r.v > 0).sort("v").limit(2).slice(1), {"index"}),
        (T.with_row_index().explode("x", index="j"), {"index j"}),
        (T.with_row_index().explode("x"), set()),
        (SUMS, {"k"}),
        (PAIRS, {"k v"}),
        (SUMS.rename({"k": "j"}), {"j"}),
        (SUMS.select("s"), set()),
        (SUMS.select(k=lambda r: r.k + 1), set()),
        (SUMS.union(SUMS), set()),
        (SUMS.cache().repartition(2), {"k"}),
        (SUMS.distinct("s"), {"k", "s"}),
        # A left record has one partner or none where the right key is unique.
        (T.distinct("v").join(SUMS, on="k"), {"v"}),
        (T.distinct("v").join(SUMS, on="k", how="left"), {"v"}),
        (T.distinct("v").join(SUMS, on="k", how="full"), set()),
        (T.distinct("v").join(U, on="k"), set()),
        (T.distinct("v").join(U, on="k", how="semi"), {"v"}),
        (T.distinct("v").join(U, on="k", how="anti"), {"v"}),
        (SUMS.join(U.distinct("w"), on="k", how="right"), {"w"}),
        (T.distinct("v").join(U.distinct("w"), on="k"), {"v w"}),
        (SUMS.join(U.distinct("w"), how="cross"), {"k w"}),
    ],
)
def test_unique_keys(table: so.Table, expected: set[str]) -> None:
    assert keys(table) == expected


def test_what_identifies_a_record_holds_a_key() -> None:
    found = UniqueKeys(PAIRS.plan)
    k, v, n = (Column(name, PAIRS.schema[name]) for name in ("k", "v", "n"))
    assert found.identifies(PAIRS.plan, [k, v, n])
    assert not found.identifies(PAIRS.plan, [k, n])


def test_a_table_of_the_environment_has_the_keys_that_start_and_body_share() -> None:
    def state_keys(start: so.Table, step: Any) -> set[str]:
        made = so.loop({"t": start}, range(2))(lambda env: {"t": step(env["t"])})
        return keys(made["t"])

    assert state_keys(SUMS, lambda t: t.with_columns(s=lambda r: r.s + 1)) == {"k"}
    assert state_keys(SUMS, lambda t: t.join(SUMS, on="k").select("k", "s")) == {"k"}
    assert state_keys(SUMS, lambda t: t.union(t)) == set()
    assert state_keys(SUMS, lambda t: t.join(T, on="k").select("k", "s")) == set()
    assert state_keys(T.select("k", s="v"), lambda t: SUMS) == set()


def test_a_loop_inside_starts_with_the_keys_of_the_outer_one() -> None:
    @so.loop({"t": SUMS}, range(2))
    def outer(env: Any) -> Any:
        @so.loop({"u": env["t"]}, range(2))
        def inner(own: Any) -> Any:
            return {"u": own["u"].with_columns(s=lambda r: r.s + 1)}

        return {"t": inner["u"]}

    assert keys(outer["t"]) == {"k"}


def test_which_operators_keep_the_records_of_an_input() -> None:
    once = T.join(SUMS, on="k", how="left").plan
    found = UniqueKeys(once)
    assert keeps_records(once, T.plan, found)
    assert not keeps_records(once, T.plan)  # nothing is known of the right side's keys
    assert not keeps_records(once, SUMS.plan, found)
    assert not keeps_records(T.join(U, on="k", how="left").plan, T.plan, found)
    assert not keeps_records(T.join(SUMS, on="k").plan, T.plan, found)
    assert keeps_records(T.with_row_index().plan, T.plan)
    assert not keeps_records(T.filter(lambda r: r.v > 0).plan, T.plan)


def test_order() -> None:
    assert is_ordered(T.filter(lambda r: r.v > 0).join(U, on="k").plan)
    assert not is_ordered(T.shuffle(1).select("v").plan)
    assert not is_ordered(T.repartition(2).limit(1).plan)
    assert is_ordered(T.shuffle(1).sort("v").plan)
    assert is_ordered(T.join(U.shuffle(1), on="k").plan)
    assert not is_ordered(T.join(U.shuffle(1), on="k", how="right").plan)


@pytest.mark.parametrize(
    ("table", "by", "together"),
    [
        (T, ["k"], False),
        (T.join(U, on="k"), ["k"], True),
        (T.join(U, on="k"), ["k", "v"], True),
        (T.join(U, on="k"), ["v"], False),
        (T.join(U, on="k").filter(lambda r: r.v > 0).rename({"k": "j"}), ["j"], True),
        (T.join(U, on="k").select(k=lambda r: r.k + 1), ["k"], False),
        (T.join(U, on="k", how="full"), ["k"], False),
        (T.join(U, how="cross").select("k"), ["k"], False),
        (SUMS, ["k"], True),
        (PAIRS, ["k"], False),
        (PAIRS, ["k", "v"], True),
    ],
)
def test_a_group_by_after_a_join_on_the_same_key(
    table: so.Table, by: list[str], together: bool
) -> None:
    assert same_keys(table.plan, [Column(n, table.schema[n]) for n in by]) is together


def test_an_aggregate_of_no_keys_is_one_record_at_most() -> None:
    groups = SUMS.plan
    assert isinstance(groups, rel.GroupAggregate)
    whole = rel.GroupAggregate(T.plan, (), groups.folds)
    assert UniqueKeys(whole).of(whole) == {frozenset()}
    assert UniqueKeys(whole).identifies(op.Limit(whole, 1), [])
