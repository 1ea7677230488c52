"""Applies rules to a plan until nothing changes, checks each firing, and keeps a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalops.algebra import operators as op
from scalops.algebra.errors import OptimizerError, PlanError
from scalops.algebra.expressions import Expression
from scalops.algebra.tree import Node, transform
from scalops.algebra.validate import validate

Rule = Callable[[Node], Node | None]
MAX_PASSES = 60


@dataclass(frozen=True)
class Phase:
    """Rules that are tried together, in order, until none applies any more."""

    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Firing:
    """A rule replaced `before` by `after`."""

    phase: str
    rule: str
    before: Node
    after: Node


def rewrite(job: op.Job, phases: Sequence[Phase]) -> tuple[op.Job, list[Firing]]:
    """The optimized job and the trace of what was changed by which rule."""
    trace: list[Firing] = []
    for phase in phases:
        for _ in range(MAX_PASSES):
            fired = len(trace)
            job = transform(job, lambda node, p=phase: _apply(node, p, trace))  # type: ignore[misc]
            if len(trace) == fired:
                break
        else:
            raise OptimizerError(
                f"the phase {phase.name!r} does not settle; its last rule was {trace[-1].rule}"
            )
        try:
            validate(job)
        except PlanError as error:
            rules = ", ".join(dict.fromkeys(f.rule for f in trace if f.phase == phase.name))
            raise OptimizerError(
                f"the phase {phase.name!r} ({rules}) broke the plan: {error}"
            ) from error
    return job, trace


def _apply(node: Node, phase: Phase, trace: list[Firing]) -> Node:
    for rule in phase.rules:
        for _ in range(MAX_PASSES):
            try:
                made = rule(node)
            except Exception as error:
                raise OptimizerError(f"the rule {rule.__name__} failed: {error}") from error
            if made is None:
                break
            _check(rule.__name__, node, made)
            trace.append(Firing(phase.name, rule.__name__, node, made))
            node = made
        else:
            raise OptimizerError(f"the rule {rule.__name__} does not settle")
    return node


def _check(rule: str, before: Node, after: Node) -> None:
    """A fired rule changed something, and kept the schema or type."""
    if after == before:
        raise OptimizerError(f"the rule {rule} fired and changed nothing")
    if isinstance(before, op.Operator):
        if not isinstance(after, op.Operator) or after.schema != before.schema:
            found = after.schema if isinstance(after, op.Operator) else type(after).__name__
            raise OptimizerError(f"the rule {rule} turned ({before.schema}) into ({found})")
    elif isinstance(before, Expression) and (
        not isinstance(after, Expression) or after.any_type != before.any_type
    ):
        raise OptimizerError(f"the rule {rule} changed the type {before.any_type}")
