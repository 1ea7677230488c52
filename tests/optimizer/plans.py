"""What tests of the optimizer share: plans, rules applied alone, plan text, and the witness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import ScalopsError
from scalops.algebra.explain import Display, PlanPrinter
from scalops.algebra.tree import Node
from scalops.engine.witness.interpreter import Interpreter, same_value
from scalops.optimizer.rewriter import Firing, Phase, Rule, rewrite

_LOCATION = re.compile(r" \(\S+:\d+\)")


def job_of(*things: Any) -> op.Job:
    """The plan that collects tables, values and loops together."""
    return op.Job(tuple(t.plan if hasattr(t, "plan") else t.expression for t in things))


def apply(job: op.Job, *rules: Rule) -> tuple[op.Job, list[Firing]]:
    """The job after these rules alone, and what they did."""
    return rewrite(job, [Phase("test", rules)])


def plan_text(node: Node) -> str:
    """The plan without the lines of the test that wrote it."""
    shown = PlanPrinter(node).display(node)
    _forget_locations(shown)
    return shown.to_text()


def _forget_locations(shown: Display) -> None:
    shown.location = None
    shown.details = [(label, _LOCATION.sub("", value)) for label, value in shown.details]
    for child in shown.children:
        _forget_locations(child)


def before_and_after(*cases: tuple[str, op.Job, op.Job]) -> str:
    """The text of a rule's golden file."""
    parts = []
    for title, before, after in cases:
        parts.append(f"== {title}\n-- before\n{plan_text(before)}\n-- after\n{plan_text(after)}\n")
    return "\n".join(parts)


def assert_stays(job: op.Job, rule: Rule) -> None:
    """The rule fires 0 times."""
    after, trace = apply(job, rule)
    assert [f.rule for f in trace] == []
    assert after == job


def firings(trace: Sequence[Firing], rule: Rule) -> int:
    """How often the rule fired."""
    return sum(f.rule == rule.__name__ for f in trace)


Answer = Any


def answer(job: op.Job) -> Answer:
    """What the interpreter makes of a job: one entry an output, or the error's class."""
    interpreter = Interpreter()
    results: list[Any] = []
    try:
        for output in job.outputs:
            if isinstance(output, op.Loop):
                results.append(interpreter.run_loop(output))
            elif isinstance(output, op.Operator):
                results.append(list(interpreter.records(output)))
            else:
                results.append(interpreter.value(output))  # type: ignore[arg-type]
    except ScalopsError as error:
        return type(error)
    return results


def same_answer(left: Answer, right: Answer) -> bool:
    """Whether two answers agree up to rounding."""
    if isinstance(left, type) or isinstance(right, type):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_answer, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same_answer(left[n], right[n]) for n in left)
    return same_value(left, right)


def collected(*values: Any) -> Answer:
    """What the engine makes of values: one entry each, or the error's class."""
    try:
        return so.collect(list(values))
    except ScalopsError as error:
        return type(error)


def assert_same_answer(before: op.Job, after: op.Job) -> None:
    """Both plans mean the same."""
    expected, found = answer(before), answer(after)
    assert same_answer(expected, found), f"{expected}\n{found}\n{plan_text(after)}"
