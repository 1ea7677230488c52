"""What somebody new to the language gets wrong first, and what the message then says."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.environment import NoField
from tests.language.witness import line

T = so.table({"x": np.arange(8.0).reshape(4, 2), "y": np.arange(4.0)})


def message(kind: type[Exception], call: Callable[[], Any]) -> str:
    """What the error says; its location is a line of this file, where it has one."""
    with pytest.raises(kind) as caught:
        call()
    location = getattr(caught.value, "location", None)
    assert location is None or location.file == __file__
    return str(caught.value)


# Explaining several things.


def fitted(rate: float) -> Any:
    """A loop over T."""
    return so.loop(np.zeros(2), range(3), name="fitted")(
        lambda w: w - rate * T.map(lambda r: (r.x @ w - r.y) * r.x).mean()
    )


def test_explain_shows_what_loops_share() -> None:
    alone = so.explain(fitted(0.1), stage="physical")
    both = so.explain(fitted(0.1), fitted(0.2), stage="physical")
    assert "together" not in alone
    assert "shared  StoredTable t1 (cached), by loops 1, 2" in both
    assert both == so.explain([fitted(0.1), fitted(0.2)], stage="physical")
    assert "stacked" in so.explain(*(fitted(r) for r in (0.1, 0.2, 0.3, 0.4)), stage="physical")


def test_explain_of_one_thing_is_its_method() -> None:
    loop = fitted(0.1)
    assert so.explain(loop) == loop.explain()
    assert so.explain({"a": T.sum("y")}, trace=True) == T.sum("y").explain(trace=True)
    found = json.loads(so.explain(T.count(), T, format="json", stage="all"))
    assert sorted(found["stages"]) == ["logical", "optimized", "physical", "traced"]


def test_explain_is_the_function_whatever_was_imported() -> None:
    importlib.import_module("scalops.explain")
    assert callable(so.explain)


def test_explain_refuses_what_it_cannot_take() -> None:
    said = message(so.PlanError, lambda: so.explain(T, "physical"))
    assert "explain takes tables, values, loops" in said
    assert "so.explain(..., stage='physical')" in said
    nested: list[Any] = []
    nested.append(nested)
    assert "explain takes no nesting" in message(so.PlanError, lambda: so.explain(nested))
    assert "collect takes no nesting" in message(so.PlanError, lambda: so.collect(nested))
    assert "stage is 'final'" in message(so.ConfigError, lambda: so.explain(T, stage="final"))
    analyzed = message(so.ConfigError, lambda: so.explain(T, stage="traced", analyze=True))
    assert "analyze=True measures the physical plan" in analyzed


# Fields by name.


class Model(so.Environment):
    """A field of each kind of name: plain, and that of a method of loops."""

    rate: float
    run: float


def test_fields_of_a_class_are_read_and_set_by_name() -> None:
    @so.loop(Model(rate=1.0, run=0.0), range(3))
    def doubled(env: Any) -> Any:
        env["rate"] = env["rate"] * 2
        env["run"] += env["rate"]
        return env

    env = doubled.run().env
    assert (env["rate"], env["run"]) == (env.rate, env.run) == (8.0, 14.0)


def test_an_environment_is_no_sequence() -> None:
    env: Any = Model(rate=1.0, run=0.0)
    for use in (list, tuple, iter, len, lambda e: [*e], lambda e: "rate" in e, lambda e: {**e}):
        with pytest.raises(TypeError):
            use(env)
    assert np.asarray(env).shape == ()


@pytest.mark.parametrize("name", ["rat", 0, None, "w"])
def test_a_name_that_is_no_field_says_which_there_are(name: Any) -> None:
    env: Any = Model(rate=1.0, run=0.0)
    said = message(NoField, lambda: env[name])
    assert f"Model has no field {name!r}; its fields are ['rate', 'run']" in said
    assert ("did you mean 'rate'?" in said) == (name == "rat")


def test_setting_a_misspelled_field_names_the_nearest() -> None:
    env: Any = Model(rate=1.0, run=0.0)
    assert "did you mean 'rate'?" in message(so.LoopError, lambda: env.__setitem__("rat", 1.0))
    assert "did you mean 'rate'?" in message(so.LoopError, lambda: setattr(env, "rat", 1.0))
    assert "no field 0" in message(so.LoopError, lambda: env.__setitem__(0, 1.0))


START = {"rate": 1.0, "loss": 0.0}


@pytest.mark.parametrize(
    "body",
    [
        lambda e: {"rate": e["rat"], "loss": 0.0},
        lambda e: {**e, "loss": T.map(lambda r: r.y * e["rat"]).sum()},
        lambda e: {**e, "loss": so.loop(0.0, range(2))(lambda s: s + e["rat"])},
    ],
    ids=["body", "row function", "inner loop"],
)
def test_a_misspelled_key_in_a_body_is_the_same_error(body: Callable[[Any], Any]) -> None:
    said = message(NoField, lambda: so.loop(START, range(3))(body))
    assert "the environment has no field 'rat'; its fields are ['rate', 'loss']" in said
    assert said.endswith("did you mean 'rate'?")


def test_a_misspelled_key_in_a_condition_or_of_a_loop_is_the_same_error() -> None:
    said = message(NoField, lambda: so.loop(START, lambda e: e["rat"] > 0)(lambda e: e))
    assert said.endswith("did you mean 'rate'?")
    loop = so.loop(START, range(3))(lambda e: e)
    assert message(NoField, lambda: loop["rat"]).endswith("did you mean 'rate'?")


def test_it_is_a_key_error_and_an_attribute_error() -> None:
    def body(env: Any) -> Any:
        assert not hasattr(env, "rat")
        assert env.get("rat") is None
        with pytest.raises(KeyError) as caught:
            env["rat"]
        assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
        return copy.copy(env) | {"rate": env["rate"] + 1}

    assert so.loop(START, range(2))(body).collect() == {"rate": 3.0, "loss": 0.0}


def test_a_field_of_a_dict_read_as_an_attribute_says_how() -> None:
    said = message(NoField, lambda: so.loop(START, range(3))(lambda e: {**e, "loss": e.rate}))
    assert "the environment is a dict" in said
    assert said.endswith("its field is env['rate']")


# Tables of what is no table, and records.


@pytest.mark.parametrize(
    "data",
    [np.ones((3, 2)), np.ones(3), [1.0, 2.0], [np.float64(1)], [[1.0, 2.0], [3.0, 4.0]], (1, 2)],
    ids=["matrix", "vector", "numbers", "NumPy's", "rows", "tuple"],
)
def test_numbers_alone_are_to_be_named(data: Any) -> None:
    assert 'so.table({"x": ' in message(so.SchemaError, lambda: so.table(data))


def test_other_wrong_tables_keep_their_hints() -> None:
    assert "so.from_arrow" in message(so.SchemaError, lambda: so.table(3))  # type: ignore[arg-type]
    assert '{"id": 1}' in message(so.SchemaError, lambda: so.table(["a"]))  # type: ignore[list-item]


def by_item(r: Any) -> Any:
    r["y"] = 3.0
    return r.y


def by_attribute(r: Any) -> Any:
    r.y = 3.0
    return r.y


def by_deletion(r: Any) -> Any:
    del r["y"]
    return r


@pytest.mark.parametrize(
    ("function", "written"),
    [(by_item, "r['y'] = ..."), (by_attribute, "r.y = ..."), (by_deletion, "del r['y']")],
)
def test_a_record_cannot_be_changed_however_it_is_written(
    function: Callable[[Any], Any], written: str
) -> None:
    said = message(so.SchemaError, lambda: T.map(function))
    assert said.startswith(f"a record cannot be changed: {written} (")
    assert said.endswith("; return the new columns, or use with_columns")
    opaque = T.map(so.udf(function, returns=so.float64))
    assert f"a record cannot be changed: {written}" in message(so.SchemaError, opaque.collect)


@pytest.mark.parametrize("word", ["sum", "mean", "min"])
def test_folding_several_columns_says_that_the_fold_takes_the_function(word: str) -> None:
    pairs = T.map(lambda r: (r.y, r.x))
    said = message(so.SchemaError, lambda: getattr(pairs, word)())
    assert f"{word}(f) takes what map(f) does" in said
    assert len(getattr(T, word)(lambda r: (r.y, r.x)).collect()) == 2


# Names of options and of the package.


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: so.loop(0.0, range(3), max_iter=3), "did you mean 'max_iterations'?"),
        (lambda: so.loop(0.0, range(3), tol=3), "its condition says so: lambda env: "),
        (lambda: so.loop(0.0, range(3), n_iter=3), "its condition says so: range(100)"),
        (lambda: so.loop(0.0, range(3), threads=3), "so.session(threads=...) takes it"),
        (lambda: so.loop(0.0, range(3), q=3), "its options are ['max_iterations', "),
        (lambda: so.collect(T, jit=True), "so.session(jit=...) takes it"),
        (lambda: so.collect(T, proceses=1), "did you mean 'processes'? so.session(processes=..."),
        (lambda: so.collect(T, stage="all"), "so.explain(..., stage=...) takes it"),
        (lambda: so.collect(T, thread=1), "did you mean 'threads'?"),
    ],
)
def test_unknown_options_name_the_right_one(call: Callable[[], Any], says: str) -> None:
    assert says in message(so.ConfigError, call)


@pytest.mark.parametrize(("name", "near"), [("sigmod", "sigmoid"), ("from_arow", "from_arrow")])
def test_misspelled_names_of_the_package(name: str, near: str) -> None:
    assert message(AttributeError, lambda: getattr(so, name)).endswith(f"did you mean 'so.{near}'?")
    assert not hasattr(so, name)
    assert message(AttributeError, lambda: so.qqqq).endswith("'qqqq'")


def test_a_traceback_suggests_once() -> None:
    command = [sys.executable, "-c", "import scalops as so; so.sigmod"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.lower().count("did you mean") == 1


def test_the_warning_of_max_iterations_names_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "scalops"):

        @so.loop(0.0, lambda s: s < 1, max_iterations=3)
        def halved(s: Any) -> Any:
            return s / 2

        at = line() - 4
        halved.collect()
        so.loop(0.0, lambda s: s < 1, max_iterations=2, name="own")(lambda s: s / 2).collect()
    assert caplog.messages == [
        "the loop 'halved' stopped after max_iterations=3 without converging"
        f" (test_new_user_messages.py:{at})",
        "the loop 'own' stopped after max_iterations=2 without converging"
        f" (test_new_user_messages.py:{line() - 5})",
    ]
