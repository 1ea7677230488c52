"""From a stage that leaves a stored table to what makes it."""

from __future__ import annotations

from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.physical_running import SummarizeRuns
from scalops.engine.pipelines.base import Pipeline, Runtime
from scalops.engine.relations.base import Hold, Relation
from scalops.engine.relations.exchanged import Exchanged
from scalops.engine.relations.group_apply import ApplyGroups
from scalops.engine.relations.groups import GroupRows
from scalops.engine.relations.held import HoldColumns
from scalops.engine.relations.indexed import IndexFilter, IndexJoin
from scalops.engine.relations.indexed_groups import IndexGroup
from scalops.engine.relations.join_index import BuildIndex
from scalops.engine.relations.meeting import MeetIndexed
from scalops.engine.relations.running import Summaries
from scalops.engine.relations.state import HoldState

RELATIONS: dict[type[pp.Sink], type[Relation]] = {
    pp.Exchange: Exchanged,
    pp.SortRows: Exchanged,
    pp.DistinctRows: Exchanged,
    pr.HoldTable: Hold,
    pr.BuildIndex: BuildIndex,
    pr.MeetIndexed: MeetIndexed,
    pr.HoldColumns: HoldColumns,
    pr.IndexFilter: IndexFilter,
    pr.IndexGroup: IndexGroup,
    pr.IndexJoin: IndexJoin,
    pr.GroupRows: GroupRows,
    pr.ApplyGroups: ApplyGroups,
    SummarizeRuns: Summaries,
    pr.HoldState: HoldState,
}


def relation(stage: pp.Stage, pipeline: Pipeline, runtime: Runtime) -> Relation:
    """Compile a stage whose sink is among RELATIONS."""
    return RELATIONS[type(stage.sink)](stage, pipeline, runtime)
