"""From a stage that leaves a stored table to what makes it."""

from __future__ import annotations

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.pipelines.base import Pipeline, Runtime
from scalops.engine.relations.base import Hold, Relation

RELATIONS: dict[type[pp.Sink], type[Relation]] = {pr.HoldTable: Hold}


def relation(stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> Relation:
    """Compile a stage whose sink is among RELATIONS."""
    return RELATIONS[type(stage.sink)](stage, pipeline, runtime)
