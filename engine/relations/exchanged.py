"""Stages that send records to other partitions: repartitioned, sorted, made distinct.

The only rank has all records in memory. Of several ranks each reads its own, in pieces, and sends
them where they belong; whatever finds no room lies in a file. The result is the same.
"""

from __future__ import annotations

from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.collective import Program
from scalops.engine.columns import empty
from scalops.engine.exchanges import (
    Parts,
    distinct_block,
    distinct_parts,
    repartitioned,
    sorted_parts,
)
from scalops.engine.passes import in_partition
from scalops.engine.pipelines.base import HeldTable, Stored
from scalops.engine.relations.base import Relation, Run
from scalops.engine.relations.exchanges_of_ranks import ENTRIES
from scalops.engine.relations.gathering import own_partitions
