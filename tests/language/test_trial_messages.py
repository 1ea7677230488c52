"""Messages for what is easily written wrong: they name the right way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.errors import Location

SALES = so.table({"shop": [0, 2, 0, 1], "price": [3.0, 1.0, 2.0, 5.0]})
BARE = so.loop(0.0, range(3))(lambda s: s + 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: t.sort(by="shop"), r"^Table\.sort\(\) got an unexpected keyword argument 'by'"),
        (lambda t: t.mean("price", 1), r"^Table\.mean\(\) takes from 1 to 2 positional"),
        (lambda t: t.map(), r"^Table\.map\(\) missing 1 required"),
        (lambda t: t.explain(how="all"), r"^explain\(\) got an unexpected"),
        (lambda t: BARE.run(callback=print), r"^Loop\.run\(\) got an unexpected"),
    ],
)
def test_wrong_arguments_name_the_method_as_it_is_written(
    call: Callable[[Any], Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        call(SALES)


def test_a_loop_over_one_value_has_no_fields() -> None:
    with pytest.raises(so.LoopError, match="a loop over one value has no field 'w'"):
        _ = BARE.w
    assert not hasattr(BARE, "w")
    assert float(BARE) == 3.0


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: so.random.normal(0, 1, 10, size=10), "shape=: so.random.normal(seed, *keys, sh"),
        (lambda: so.random.uniform(0, size=10), "shape=: so.random.uniform("),
        (lambda: so.random.normal(0, loc=2.0), "loc + scale * so.random.normal("),
        (lambda: so.random.integers(0, 10), "so.random.integers(seed, *keys, low=0, high=10)"),
        (lambda: so.random.integers(0, high=3, size=1), "shape=: so.random.integers("),
    ],
)
def test_numpys_arguments_of_random_numbers_are_translated(
    call: Callable[[], Any], hint: str
) -> None:
    with pytest.raises(so.TraceError) as caught:
        call()
    assert isinstance(caught.value.location, Location)
    assert caught.value.location.file == __file__
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("wanted", [{"a": BARE}.values(), (BARE for _ in range(2))])
def test_collect_of_a_view_or_generator_asks_for_a_list(wanted: Any) -> None:
    with pytest.raises(so.PlanError, match=r"collect\(list\(\.\.\.\)\)"):
        so.collect(wanted)


def test_a_section_of_the_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scalops.toml").write_text("[scalops]\nthreads = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(so.ConfigError, match=r"\[scalops\] is a section; options stand at the top"):
        so.session()


class Plain(so.Environment):
    w = np.zeros(3)
    loss = 0.0


class Mixed(so.Environment):
    w: float = 0.0
    rate = 0.1


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (Plain, "`w: np.ndarray`"),
        (lambda: Plain(loss=1.0), "`loss: float`"),
        (lambda: Mixed(rate=1.0), "`rate: float`"),
        (lambda: setattr(Mixed(), "rate", 2.0), "`rate: float`"),
    ],
)
def test_attributes_without_annotation_are_pointed_out(call: Callable[[], Any], hint: str) -> None:
    with pytest.raises(so.LoopError) as caught:
        call()
    assert hint in (caught.value.hint or "")


def test_constants_of_an_annotated_environment_are_left_alone() -> None:
    assert so.loop(Mixed(), range(2))(lambda e: Mixed(w=e.w + Mixed.rate)).collect().w == 0.2


def test_a_numpy_array_of_a_symbol_points_to_so_call() -> None:
    with pytest.raises(so.TraceError, match=r"SciPy's minimize takes so\.call"):
        so.loop(np.zeros(2), range(3))(np.asarray)


VECTORS = so.table([{"x": np.zeros(2), "s": "a"}])


@pytest.mark.parametrize(
    ("f", "shaped"),
    [
        (lambda r: r.x @ np.ones(3), True),
        (lambda r: r.x + np.ones(3), True),
        (lambda r: r.s.str.contains("(?=a)", regex=True), False),
        (lambda r: so.cast(r.x[0], "number"), False),
    ],
)
def test_only_errors_of_shapes_speak_of_shapes(f: Callable[[Any], Any], shaped: bool) -> None:
    with pytest.raises(so.TraceError) as caught:
        VECTORS.map(f)
    assert ("shapes and types are those of one record" in str(caught.value)) is shaped


@pytest.mark.parametrize(("name", "way"), [("dropna", "so.is_null"), ("fillna", "so.coalesce")])
def test_pandas_words_for_nulls_name_functions_of_nulls(name: str, way: str) -> None:
    with pytest.raises(AttributeError, match=way):
        getattr(SALES, name)


def test_a_batch_used_as_pandas_is_pointed_to_pandas() -> None:
    def drop(batch: Any) -> pa.Table:
        return batch.dropna()

    with pytest.raises(so.UserFunctionError) as caught:
        SALES.map_batches(drop, {"shop": so.int64}).collect()
    assert "the number of records in the batch is 4" in str(caught.value)
    assert "batch.to_pandas()" in (caught.value.hint or "")
