"""Plan text: never wider than a page, the same each time, and JSON for programs."""

import json
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.explain import WIDTH, Display, PlanPrinter, bytes_text
from scalops.algebra.tree import Node
from tests.optimizer.plans import job_of
from tests.optimizer.random_programs import random_program
from tests.quick import repeated

T = so.table({"x": np.ones((2, 3)), "y": np.ones(2)})


def shown(node: Node) -> Display:
    return PlanPrinter(node).display(node)


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@repeated(3)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=9, suppress_health_check=[HealthCheck.too_slow])
def test_random_programs_fit_the_page_and_parse(run: int, seed: int) -> None:
    made = shown(job_of(*random_program(Random(seed))))
    assert widest(made.to_text()) <= WIDTH
    parsed = json.loads(made.to_json())
    assert parsed["version"] == 1
    assert parsed["plan"]["title"] == "Job"


def test_the_same_plan_prints_the_same() -> None:
    job = job_of(*random_program(Random(5)))
    assert shown(job).to_text() == shown(job).to_text()


def test_a_plan_deeper_than_the_page_stays_on_it() -> None:
    table = T
    for i in range(120):
        table = table.filter(lambda r, i=i: r.y > i).limit(1000 + i)
    made = shown(table.plan)
    assert widest(made.to_text()) <= WIDTH
    assert len(made.to_text().splitlines()) == 242


@pytest.mark.parametrize("name", ["c" * 300, "a column " * 40, "ärger" * 40])
def test_long_names_are_broken(name: str) -> None:
    table = so.table({name: np.ones(2), "y": np.ones(2)})
    doubled = table.map(lambda r: {name: r[name] * 2, "y": r.y}).filter(lambda r: r[name] > 0)
    assert widest(shown(doubled.plan).to_text()) <= WIDTH


def test_many_columns_are_counted() -> None:
    table = so.table({f"c{i}": np.ones(1) for i in range(40)})
    text = shown(table.with_columns(new=lambda r: r.c0 + r.c1).plan).to_text()
    assert "c0, c1, …, c39 (40 columns), new = c0 + c1" in text
    assert "c0: float64, c1: float64, c2: float64, …, c39: float64 (40 columns)" in text


def test_what_is_read_twice_is_shown_once() -> None:
    kept = T.filter(lambda r: r.y > 0)
    text = shown(job_of(kept, kept.sum("y"))).to_text()
    assert text.count("Filter y > 0") == 1
    assert "@1 Filter as above" in text


def test_a_loop_read_again_is_named() -> None:
    model = so.loop(np.zeros(3), range(2), name="fit")(lambda w: w + T.sum("x"))
    text = shown(job_of(model, T.map(lambda r: r.x @ model))).to_text()
    assert "Loop loop1 fit as above" in text


def test_the_users_line_stands_beside_each_operator() -> None:
    made = shown(T.filter(lambda r: r.y > 0).plan)
    assert made.location is not None
    assert made.location.startswith("test_explain.py:")
    assert f"({made.location})" in made.to_text()


def test_a_loop_shows_state_condition_and_limits() -> None:
    @so.loop({"w": np.zeros(3), "n": 0}, lambda env: env["n"] < 5, max_iterations=9, name="fit")
    def model(env: Any) -> Any:
        return {"w": env["w"] + T.sum("x"), "n": env["n"] + 1}

    text = shown(model.plan).to_text()
    assert "Loop loop1 fit: while env.n < 5, at most 9 times" in text
    assert "w: float64[3] starts at [0, 0, 0]" in text
    stepped = so.loop(0.0, range(2, 9, 3), name="fit")(lambda w, i: w + i)
    assert "Loop loop1 fit: over 2:9:3" in shown(stepped.plan).to_text()


def test_an_opaque_function_says_why() -> None:
    text = shown(T.map(lambda r: 1.0 if r.y > 0 else 2.0).plan).to_text()
    assert "asks for a truth value" in " ".join(text.split())
    assert "called once per record" in " ".join(text.split())


def test_notes_are_added_to_the_nodes_they_are_about() -> None:
    def notes(node: Node) -> list[tuple[str, str]]:
        return [("estimate", "2 rows")] if isinstance(node, op.Scan) else []

    plan = T.limit(1).plan
    text = PlanPrinter(plan, notes=notes).display(plan).to_text()
    assert text.splitlines()[-1].strip() == "· estimate  2 rows"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (2.5e6, "2.5 MB"), (7e13, "70 TB")],
)
def test_bytes_have_a_unit(count: float, text: str) -> None:
    assert bytes_text(count) == text
