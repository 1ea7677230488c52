"""EXPLAIN at every stage: deterministic, narrow, readable; golden files."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so

Golden = Callable[[str, str], None]


class Model(so.Environment):
    """State of the examples."""

    w: np.ndarray
    loss: float


def logistic_regression() -> Any:
    """Two reduces over one derived table."""
    raw = so.table({"x": np.ones((500, 4)), "y": np.ones(500), "unread": np.zeros(500)})
    xy = raw.filter(lambda r: r.y != 0).select("y", x=lambda r: np.log1p(r.x))
    n = xy.count()

    @so.loop(Model(w=np.zeros(4), loss=np.inf), lambda env: env.loss > 0.1, max_iterations=5)
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(np.add)
        env.loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum() / n
        env.w -= 0.5 * gradient / n
        return env

    return model


def sign(v: float) -> float:
    """An opaque function: it asks for a truth value."""
    return 1.0 if v > 0 else -1.0


def opaque() -> Any:
    """A loop over an opaque function."""
    t = so.table({"v": np.arange(10.0)})
    return so.loop(0.5, range(3))(lambda s: t.map(lambda r: sign(r.v - s)).mean() + s)


def without_noise(text: str) -> str:
    """Line numbers and fingerprints change for reasons that are no news."""
    text = re.sub(r"(\w+\.py):\d+", r"\1", text)
    return re.sub(r"\b[0-9a-f]{32}\b", "(digest)", text)


@pytest.mark.parametrize("stage", ["traced", "logical", "optimized", "physical"])
def test_stages_of_logistic_regression(golden: Golden, stage: str) -> None:
    text = logistic_regression().explain(stage=stage, costs=False)
    golden(f"explain/logistic_{stage}.txt", without_noise(text) + "\n")


def test_costs_of_logistic_regression(golden: Golden) -> None:
    with so.session(threads=2, memory="1GB"):
        text = logistic_regression().explain(stage="physical")
    golden("explain/logistic_costs.txt", without_noise(text) + "\n")


def test_opaque_functions_are_marked_with_reason_and_line(
    golden: Golden, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "scalops"):
        loop = opaque()
    text = loop.explain(stage="all", costs=False)
    assert re.search(r"opaque .*asks for a truth value \(test_explain.py:\d+\)", text)
    golden("explain/opaque.txt", without_noise(text) + "\n")


def test_the_trace_shows_each_rule_before_and_after(golden: Golden) -> None:
    t = so.table({"a": np.arange(3.0)})
    value = t.map(lambda r: r.a * 2.0).map(lambda v: v + 1.0).sum()
    golden("explain/trace.txt", without_noise(value.explain(trace=True)) + "\n")


def test_json_says_the_same_as_text() -> None:
    loop = logistic_regression()
    made = json.loads(loop.explain(stage="all", format="json", trace=True))
    assert list(made["stages"]) == ["traced", "logical", "optimized", "physical"]
    assert made["version"] == 1
    assert made["trace"][0]["rule"] == "cache_invariants"
    for entry in made["trace"]:
        assert all(entry[side]["title"] for side in ("before", "after"))
    assert any(entry["before"].get("children") for entry in made["trace"])
    titles: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        titles.append(node["title"])
        for child in node.get("children", []):
            walk(child)

    walk(made["stages"]["optimized"])
    text = loop.explain()
    for title in titles:
        assert title.split(" ")[0] in text


def test_explain_is_the_same_each_time() -> None:
    first, second = logistic_regression(), logistic_regression()
    assert first.explain(stage="all") == second.explain(stage="all")


def test_no_line_is_wider_than_100_columns() -> None:
    columns = {f"a_rather_long_column_name_{i}": np.zeros(3) for i in range(40)}
    t = so.table(columns)
    long = t.map(lambda r: sum(r[i] * i for i in range(40)))
    for stage in ("traced", "logical", "optimized", "physical", "all"):
        assert max(map(len, long.explain(stage=stage, trace=True).splitlines())) <= 100


def test_explain_runs_nothing() -> None:
    calls: list[int] = []

    def counted(r: Any) -> float:
        calls.append(1)
        return float(r.v)

    t = so.table({"v": np.arange(1000.0)})
    loop = so.loop(0.0, range(5))(lambda s: t.map(so.udf(counted, returns=so.float64)).sum() + s)
    loop.explain(stage="all")
    assert not calls


@pytest.mark.parametrize(("option", "value"), [("stage", "final"), ("format", "yaml")])
def test_unknown_options_are_named(option: str, value: str) -> None:
    given: dict[str, Any] = {option: value}
    with pytest.raises(so.ConfigError, match=f"{option} is '{value}'; expected one of"):
        so.table({"v": np.zeros(1)}).explain(**given)
