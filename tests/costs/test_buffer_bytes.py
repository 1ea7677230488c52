"""Bytes of kernels' buffers: as the kernels themselves have them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.definitions import over_source
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import block_rows
from scalops.engine.kernels.kernel import Kernel
from scalops.engine.stage_operators import operators_of
from scalops.optimizer.costs.buffer_bytes import stage_buffers
from scalops.planning import plan
from tests.costs.programs import PROGRAMS, T, physical
from tests.engine.plans import job_of
from tests.quick import quick


def softmax() -> Any:
    """Scores of each record, a matrix by each of them: several buffers of several types."""
    return T.map(lambda r: np.outer(np.exp(np.tanh(r.x) * r.v), np.sqrt(r.x + 1) / 3)).sum()


def steps() -> Any:
    """A chain whose results are used again while others are made."""

    def of_record(r: Any) -> Any:
        a = np.exp(r.v)
        b = np.tanh(a) * a
        return (a + b) * np.log1p(b) - a / (1 + b)

    return T.filter(lambda r: of_record(r) > 0).map(lambda r: of_record(r) * r.x).sum()


MORE = {"softmax": softmax, "steps": steps}


def kernels(stage: pp.Stage) -> int:
    """Bytes of the buffers of the kernels that the engine compiles for a stage."""
    found = 0
    for node in operators_of(stage):
        match node:
            case pp.Compute(outputs=outputs, map=mapped, source=source):
                roots = over_source(mapped, [e for _, e in outputs])
                found += Kernel(roots, block_rows(source.schema)).buffer_bytes
            case pp.Select(predicate=predicate, source=source):
                found += Kernel([predicate], block_rows(source.schema)).buffer_bytes
            case pp.TreeAggregate(map=mapped, folds=folds):
                roots = over_source(mapped, [a for f in folds for a in f.arguments])
                rows = block_rows(stage.source.schema)
                found += Kernel(roots, rows, transient=True).buffer_bytes
    return found


@pytest.mark.parametrize("name", quick([*MORE, *PROGRAMS], 4))
def test_buffers_are_those_of_the_kernels(name: str) -> None:
    made = plan(job_of(MORE[name]()), jit=False) if name in MORE else physical(name)
    for stage in made.stages:
        assert stage_buffers(stage) == pytest.approx(kernels(stage), rel=0.01)


def test_what_was_reserved_was_foreseen() -> None:
    made = softmax()
    foreseen = sum(map(stage_buffers, plan(job_of(made), jit=False).stages))
    with so.session(threads=1):
        shown = json.loads(made.explain(analyze=True, format="json"))
    reserved = shown["analysis"]["profile"]["memory"]["kernel buffers"]
    assert reserved == pytest.approx(foreseen, rel=0.01)
