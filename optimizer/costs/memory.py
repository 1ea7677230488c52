"""What a plan holds in memory, and what it has no room for: in files, or made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from scalops.optimizer.cost import BROADCAST_BYTES
from scalops.optimizer.costs.plan_work import PlanWork, StageWork
from scalops.optimizer.costs.setting import Setting

# What cached tables leave of a budget to kernels' buffers: as engine/cached_table.py has it.
LEFT_SHARE, LEFT_MOST = 1 / 16, float(64 << 20)


@dataclass(frozen=True)
class Held:
    """What each worker (or this process) holds, in bytes.

    `memory`: of everything together, buffers of kernels included. `cached`: of each cached table,
    by number, the share that is held, and `missing` the bytes that are not. `spilled`: of the
    tables that other stages leave, by stage, the bytes in files.
    """

    memory: float
    cached: Mapping[int, float] = field(default_factory=dict)
    missing: Mapping[int, float] = field(default_factory=dict)
    spilled: Mapping[int, float] = field(default_factory=dict)


def held(work: PlanWork, setting: Setting) -> Held:
    """What is held where.

    What a loop cannot do without comes first, in the order of stages, and goes to files where there
    is no room. Caches share what is left, in the order of their stages, each as far as the setting
    lets it. Buffers of kernels are made where there is still room.
    """
    stages = [s for _, s in sorted(work.stages.items())]
    room, taken = setting.memory, 0.0
    spilled: dict[int, float] = {}
    for stage in stages:
        if not stage.is_cache:
            size = worker_bytes(stage, setting)
            own = min(size, room)
            room, taken = room - own, taken + own
            if own < size:
                spilled[stage.stage] = size - own
    cached, missing = {}, {}
    for stage in stages:
        if stage.is_cache and stage.makes is not None:
            most = max(0.0, room - left_by_caches(setting.memory))
            size = worker_bytes(stage, setting)
            own = min(size, most, setting.neutral.held.get(stage.makes, most))
            room, taken = room - own, taken + own
            cached[stage.makes] = own / size if size else 1.0
            missing[stage.makes] = size - own
    buffers = sum(s.buffer_bytes * _threads(s, setting) for s in stages)
    return Held(taken + min(buffers, room), cached, missing, spilled)


def _threads(stage: StageWork, setting: Setting) -> int:
    """Threads of one worker that compute at once: no more than it has blocks."""
    return min(setting.threads, max(1, ceil(stage.blocks / max(1, setting.workers))))


def left_by_caches(memory: float) -> float:
    """Bytes of a budget that cached tables leave to others."""
    return min(LEFT_SHARE * memory, LEFT_MOST)


def worker_bytes(stage: StageWork, setting: Setting) -> float:
    """What one worker holds of the table that a stage leaves, beside what lies in memory anyway."""
    if stage.is_view and (not setting.workers or setting.cores is not None):
        return 0.0
    indexed = 0 < stage.index_bytes <= index_limit(stage, setting)
    whole = stage.held_whole or indexed
    return stage.held_bytes / (1 if whole else max(1, setting.workers))


def index_limit(work: StageWork, setting: Setting) -> float:
    """Bytes up to which the indexed side of a join goes to every worker."""
    limit = BROADCAST_BYTES.value
    return float(limit if work.makes is None else setting.neutral.broadcast.get(work.makes, limit))
