"""Attacks by aggregates and sparse vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import scalops as so
from tests.language.attacks.table import T, ends_in


class Mean(so.Aggregate):
    """The mean, in parts: what an attack leaves out or breaks is overridden."""

    def initialize(self) -> Any:
        return (0.0, 0)

    def transition(self, state: Any, r: Any) -> Any:
        return (state[0] + r.a, state[1] + 1)

    def merge(self, a: Any, b: Any) -> Any:
        return (a[0] + b[0], a[1] + b[1])

    def finalize(self, state: Any) -> Any:
        return state[0] / state[1]


@ends_in(so.SchemaError, r"quantile needs a number from 0 to 1, or a list of such; it got 1\.5")
def a_quantile_beyond_one(_: Path) -> Any:
    return T.quantile(1.5, "a").collect()


@ends_in(so.SchemaError, r"quantile's first argument is the level q; it got 'half'")
def a_quantile_by_a_word(_: Path) -> Any:
    return T.quantile("half", "a").collect()


@ends_in(so.SchemaError, r"ddof, which is 'one'; expected a number")
def a_variance_of_a_word_less(_: Path) -> Any:
    return T.var("a", ddof="one").collect()  # type: ignore[arg-type]


@ends_in(so.TraceError, r"var: it has no meaning for string")
def a_variance_of_words(_: Path) -> Any:
    return T.var("s").collect()


@ends_in(so.TraceError, r"argmax: it needs one value for each record to go by, not float64\[4\]")
def the_greatest_vector(_: Path) -> Any:
    return T.argmax("x").collect()


@ends_in(so.DataError, r"first over no records")
def the_first_of_nothing(_: Path) -> Any:
    return T.filter(lambda r: r.a > 9).first("a").collect()


@ends_in(so.SchemaError, r"last reads 'z'; the table has")
def the_last_of_an_unknown_column(_: Path) -> Any:
    return T.last("z")


@ends_in(so.TraceError, r"any: it has no meaning for string")
def a_truth_of_words(_: Path) -> Any:
    return T.any("s").collect()


@ends_in(so.TraceError, r"the aggregate Half has no merge.*merge\(self, a, b\)")
def an_aggregate_without_a_merge(_: Path) -> Any:
    class Half(so.Aggregate):
        def initialize(self) -> Any:
            return 0.0

        def transition(self, state: Any, r: Any) -> Any:
            return state + r.a

    return T.aggregate(Half()).collect()


@ends_in(so.TraceError, r"aggregate needs an object, not the class Mean.*aggregate\(Mean\(\)\)")
def an_aggregate_by_its_class(_: Path) -> Any:
    return T.aggregate(Mean).collect()


@ends_in(so.TraceError, r"write aggregate\(zero, add, merge\), or aggregate\(A\(\)\)")
def an_aggregate_of_a_number(_: Path) -> Any:
    return T.aggregate(3).collect()


@ends_in(
    so.TraceError,
    r"gives a tuple; its state is tuple of \['_0', '_1'\]",
)
def a_state_that_changes_its_type(_: Path) -> Any:
    class Growing(Mean):
        def transition(self, state: Any, r: Any) -> Any:
            return (state[0] + r.a, state[1] + 1, r.a)

    return T.aggregate(Growing()).collect()


@ends_in(so.TraceError, r"an aggregate turns the state from float64 into float64\[4\]")
def a_state_that_changes_its_shape(_: Path) -> Any:
    return T.aggregate(0.0, lambda s, r: s + r.x, lambda a, b: a + b).collect()


@ends_in(so.TraceError, r"merging with the first state, zero, must change nothing")
def a_merge_that_forgets(_: Path) -> Any:
    return T.aggregate(0.0, lambda s, r: s + r.a, lambda a, b: a).collect()


@ends_in(so.UserFunctionError, r"raised TypeError: 'NoneType' object is not subscriptable")
def a_state_of_nothing(_: Path) -> Any:
    class Empty(Mean):
        def initialize(self) -> Any:
            return None

        def transition(self, state: Any, r: Any) -> Any:
            return (state[0] + r.a, state[1] + 1)

    return T.aggregate(Empty()).collect()


@ends_in(so.TraceError, r"the function of finalize returns nothing")
def a_finalize_that_returns_nothing(_: Path) -> Any:
    class Silent(Mean):
        def finalize(self, state: Any) -> Any:
            return None

    return T.aggregate(Silent()).collect()


@ends_in(so.UserFunctionError, r"transition\(\) raised KeyError: 'no such key'")
def a_transition_that_fails(_: Path) -> Any:
    class Failing(Mean):
        def transition(self, state: Any, r: Any) -> Any:
            if r.k == 2:
                raise KeyError("no such key")
            return (state[0] + r.a, state[1] + 1)

    return T.aggregate(Failing()).collect()


@ends_in(so.TraceError, r"transition's function has the parameters \(s\); it takes two")
def a_transition_of_one(_: Path) -> Any:
    return T.aggregate(0.0, lambda s: s, lambda a, b: a + b).collect()


# Sparse vectors.


@ends_in(so.DataError, r"a sparse vector has the index 9; expected 0\.\.3")
def a_sparse_vector_with_an_index_outside(_: Path) -> Any:
    return so.sparse_vector([0, 9], [1.0, 2.0], 4)


@ends_in(so.DataError, r"a sparse vector has 2 indices and 1 values")
def a_sparse_vector_with_a_value_too_few(_: Path) -> Any:
    return so.sparse_vector([0, 1], [1.0], 4)


@ends_in(so.TraceError, r"the dimension of a sparse vector is 1 to .*, not -4")
def a_sparse_vector_of_a_dimension_below_zero(_: Path) -> Any:
    return so.sparse_vector([0], [1.0], -4)


@ends_in(so.TraceError, r"the dimension of a sparse vector is a Python int, not Value\(int64\)")
def a_sparse_vector_of_a_lazy_dimension(_: Path) -> Any:
    return so.sparse_vector([0], [1.0], T.count())


@ends_in(so.TraceError, r"exp\(0\) is 1.*write so\.dense\(x\)")
def a_function_that_fills_a_sparse_vector(_: Path) -> Any:
    return T.map(lambda r: np.exp(so.sparse_vector([1], [1.0], 4) * r.a))


@ends_in(so.TraceError, r"matmul cannot multiply sparse\[3\] by float64\[4\]: 3 is not 4")
def a_product_of_sparse_vectors_that_do_not_fit(_: Path) -> Any:
    return T.map(lambda r: (so.sparse_vector([1], [1.0], 3) * r.a) @ r.x)


@ends_in(so.TraceError, r"hashed_counts needs a list of strings, not float64")
def counts_of_a_number(_: Path) -> Any:
    return T.map(lambda r: so.hashed_counts(r.a, 8))


@ends_in(so.TraceError, r"the dimension of a sparse vector is 1 to .*, not 0")
def counts_of_no_dimension(_: Path) -> Any:
    return T.map(lambda r: so.hashed_counts(r.s.str.split(), 0))
