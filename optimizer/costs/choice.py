"""Which neutral decisions a plan runs with: those of the least seconds, or of the least cost.

Each decision is told with what comes second, so that a reader can see by how much it was taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scalops.algebra.figures import bytes_text, seconds_text
from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.caching import Invariant, held_bytes
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.meeting import Meeting, Reduced, meeting
from scalops.optimizer.costs.memory import left_by_caches, worker_bytes
from scalops.optimizer.costs.plan_cost import PlanCost, plan_cost
from scalops.optimizer.costs.plan_work import PlanWork, StageWork
from scalops.optimizer.costs.prediction import iteration_seconds
from scalops.optimizer.costs.program_rates import ProgramRates
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.stage_cost import DECODING
from scalops.optimizer.costs.trees import links_of

# What is indexed whole on every worker may take this part of a worker's memory.
_INDEXED_PART = 0.25
_WHOLE, _BY_HASH = 1 << 62, 0  # limits of bytes: broadcast always, never


@dataclass(frozen=True)
class Decision:
    """What was chosen, in words, and its `seconds`; what came second, if there was anything else.

    Seconds are those of the whole run.
    """

    about: str
    chosen: str
    seconds: float
    second: str = ""
    second_seconds: float = 0.0
    provenance: Provenance = "assumed"

    def __str__(self) -> str:
        shown = f"{self.about}: {self.chosen}, {seconds_text(self.seconds)}"
        if self.second:
            shown += f"; {self.second}: {seconds_text(self.second_seconds)}"
        return f"{shown} ({self.provenance})"


@dataclass(frozen=True)
class Asked:
    """What is asked for: the `objective`, and the fan-in and limits of joins that a user fixed.

    `running`: whether workers are there, or have to be started.
    """

    objective: str = "time"
    fan_in: int | None = None
    running: bool = False
    broadcast: int | None = None


@dataclass(frozen=True)
class Choice:
    """The setting that was chosen, what the plan costs in it, and why.

    `file_byte`: seconds to read a byte of a cache file.
    """

    setting: Setting
    work: PlanWork
    cost: PlanCost
    meeting: Meeting | None
    reductions: tuple[Reduced, ...]
    decisions: tuple[Decision, ...]
    seconds: float
    others: tuple[tuple[Setting, float], ...] = field(default=())
    file_byte: float = 0.0


def choose(
    work: PlanWork,
    reductions: Sequence[Reduced],
    machine: Machine,
    settings: Iterable[Setting],
    asked: Asked = Asked(),
    program: ProgramRates | None = None,
) -> Choice:
    """The best of these settings, which differ in workers; what they leave open is chosen for each.

    `objective` "time" makes seconds least, "cost" seconds times machines. Of equal ones the first
    is taken.
    """
    passes = runs_of(work)
    reduced = tuple(replace(r, passes=passes.get(r.stage, 1.0)) for r in reductions)
    made = [_completed(work, reduced, machine, s, asked, program) for s in settings]
    made.sort(key=lambda c: _objective(c, asked))
    best, rest = made[0], made[1:]
    if rest:
        best = replace(best, decisions=(_of_workers(best, rest[0], asked), *best.decisions))
    return replace(best, others=tuple((c.setting, c.seconds) for c in made))


def _objective(choice: Choice, asked: Asked) -> float:
    return choice.seconds * (machines_of(choice.setting) if asked.objective == "cost" else 1)


def machines_of(setting: Setting) -> int:
    """How many machines are paid for: workers that share one are one."""
    return max(1, setting.workers) if setting.cores is None else 1


def runs_of(work: PlanWork) -> dict[int, float]:
    """How often each stage of a plan is run, as far as that is known before."""
    found = dict.fromkeys(work.once, 1.0)
    by_index = {loop.index: loop for loop in work.loops}
    stack = [(index, 1.0) for index in work.outer]
    while stack:
        index, times = stack.pop()
        loop = by_index[index]
        own = times * loop.iterations
        for stage in loop.stages:
            found[stage] = found.get(stage, 0.0) + own
        stack.extend((inner, own) for inner in loop.inner)
    return found


def _completed(
    work: PlanWork,
    reductions: tuple[Reduced, ...],
    machine: Machine,
    setting: Setting,
    asked: Asked,
    program: ProgramRates | None,
) -> Choice:
    """The setting with what it leaves open: the tree, the joins, the caches."""
    decisions: list[Decision] = []
    met = None
    if setting.workers:
        met = meeting(setting.workers, reductions, links_of(machine), asked.fan_in)
        neutral = replace(setting.neutral, fan_ins=met.fan_ins, at_driver=met.at_driver)
        setting = replace(setting, neutral=neutral)
        uses_tree = len(met.at_driver) < len(reductions)
        if met.next_best is not None and uses_tree and not met.told:
            tree, seconds = met.next_best
            decisions.append(
                Decision(
                    "tree",
                    fan_ins_text(met.fan_ins),
                    met.seconds,
                    fan_ins_text(tree),
                    seconds,
                    met.links.provenance,
                )
            )
        setting, of_joins = _joins(work, machine, setting, asked, program)
        decisions += of_joins
    setting, of_caches = _caches(work, machine, setting, program)
    decisions += of_caches
    cost = plan_cost(work, machine, setting, program)
    seconds = cost.total_seconds + (0.0 if asked.running else start_seconds(machine, setting))
    if program is not None:
        seconds += _measured_difference(work, cost, machine, setting, program)
    file_byte = 1 / machine["disk_read"] + 1 / machine["ipc"]
    return Choice(
        setting, work, cost, met, reductions, tuple(decisions), seconds, file_byte=file_byte
    )


def _measured_difference(
    work: PlanWork, cost: PlanCost, machine: Machine, setting: Setting, program: ProgramRates
) -> float:
    """What the program's own rates make of its outermost loops, beyond what the machine's do.

    Of the later iterations: how a loop begins has been seen on samples only.
    """
    rows = program.rows(program.records)
    found = 0.0
    for loop in work.loops:
        if loop.index in work.outer and loop.index in program.loops:
            steady = iteration_seconds(program, rows, setting, machine, loop.index).seconds
            later = max(0.0, loop.iterations - 1)
            found += later * (steady - cost.loops[loop.index].steady.total)
    return found


def start_seconds(machine: Machine, setting: Setting) -> float:
    """Until the workers are there: they start side by side, as far as there are cores."""
    if not setting.workers:
        return 0.0
    at_once = setting.workers if setting.cores is None else min(setting.workers, setting.cores)
    return machine["worker_start"] * setting.workers / at_once


def _of_workers(best: Choice, second: Choice, asked: Asked) -> Decision:
    about = "workers" if asked.objective == "time" else "workers, by cost"
    return Decision(
        about,
        workers_text(best.setting),
        best.seconds,
        workers_text(second.setting),
        second.seconds,
        best.cost.provenance,
    )


def workers_text(setting: Setting) -> str:
    """Where a plan runs, in words."""
    if not setting.workers:
        return "none, in this process"
    return str(setting.workers)


def fan_ins_text(fan_ins: Sequence[int]) -> str:
    """A tree in words: 2·5 are the fan-ins of two levels, the lowest first."""
    return f"fan-in {'·'.join(map(str, fan_ins))}"


# Joins.


def _joins(
    work: PlanWork,
    machine: Machine,
    setting: Setting,
    asked: Asked,
    program: ProgramRates | None,
) -> tuple[Setting, list[Decision]]:
    """For each indexed side of a join, up to how many bytes it goes whole to every worker.

    The records that there are decide when the plan runs; so a limit is chosen, not a way: where
    both cost the same, by the sizes that are estimated.
    """
    decisions = []
    for stage in work.stages.values():
        if not stage.index_bytes or stage.makes is None or setting.workers < 2:
            continue
        if asked.broadcast is not None:
            setting = _limited(setting, stage.makes, asked.broadcast)
            continue
        if stage.provenance == "assumed":
            continue  # the engine's own limit holds for what nobody knows
        costs = [
            plan_cost(work, machine, _limited(setting, stage.makes, limit), program)
            for limit in (_WHOLE, _BY_HASH)
        ]
        whole, by_hash = (c.total_seconds for c in costs)
        most = _INDEXED_PART * setting.memory
        equal = equal_bytes(work, stage, machine, setting.workers)
        size = stage.index_bytes
        limit = max(equal, size) if whole <= by_hash else min(equal, size / 2)
        setting = _limited(setting, stage.makes, int(min(most, limit)))
        ways = [("to every worker", whole), ("by hash of its keys", by_hash)]
        if whole > by_hash or stage.index_bytes > most:
            ways.reverse()
        (chosen, seconds), (second, slower) = ways
        about = f"join t{stage.makes} ({bytes_text(size)} {stage.provenance})"
        known = costs[0].provenance
        decisions.append(Decision(about, chosen, seconds, second, slower, known))
    return setting, decisions


def equal_bytes(work: PlanWork, index: StageWork, machine: Machine, workers: int) -> float:
    """Bytes of an indexed side for which both ways of a join take the same seconds.

    Whole on each of N workers b bytes are heard by all, (1 − 1/N)·b each, and all of their records
    are indexed; by hash of its keys each hears (N − 1)/N² · b. Then in each pass the probing
    side's keys go to who owns them, and the answers back:
    2·(hop + N·message + bytes·(N − 1)/(N²·link)).
    """
    n, link = workers, machine["link"]
    others = 1 - 1 / n
    passes = runs_of(work)
    asked = 0.0
    for stage in work.stages.values():
        for number, size in stage.probed:
            if number == index.makes:
                once = machine["hop"] + n * machine["message"] + size * others / (n * link)
                asked += 2 * passes.get(stage.stage, 0.0) * once
    records = index.rows / max(1.0, index.index_bytes)  # for a byte
    whole = others / link + others * records / machine["build"]
    return asked / max(1e-30, whole - others / (n * link))


def _limited(setting: Setting, number: int, limit: int) -> Setting:
    neutral = setting.neutral
    broadcast = {**neutral.broadcast, number: limit}
    return replace(setting, neutral=replace(neutral, broadcast=broadcast))


# Caches.


def _caches(
    work: PlanWork, machine: Machine, setting: Setting, program: ProgramRates | None
) -> tuple[Setting, list[Decision]]:
    """Which tables lie in memory, where it has no room for all, and what becomes of the rest.

    A fractional knapsack: a byte is worth what it saves, of reading it from a cache file or of
    making it again, whichever takes less. The file is chosen, too, for a table that memory is
    thought to hold: it is written where that turns out otherwise.
    """
    caches = {s.makes: s for s in work.stages.values() if s.is_cache and s.makes is not None}
    if not caches:
        return setting, []

    def total(memory: float, held: Mapping[int, int], filed: frozenset[int]) -> float:
        neutral = replace(setting.neutral, held=held, filed=filed)
        return plan_cost(
            work, machine, replace(setting, memory=memory, neutral=neutral), program
        ).total_seconds

    whole = total(math.inf, {}, frozenset())
    tables, filed = [], set()
    for number, stage in caches.items():
        again = total(math.inf, {number: 0}, frozenset())
        from_file = total(math.inf, {number: 0}, frozenset((number,)))
        if from_file < again and setting.disk > 0:
            filed.add(number)
        else:
            from_file = again
        size = worker_bytes(stage, setting)
        tables.append(Invariant(number, size, 1.0, max(0.0, from_file - whole)))
    setting = replace(setting, neutral=replace(setting.neutral, filed=frozenset(filed)))
    setting, decisions = _in_memory(work, machine, setting, program, tables)
    return _within_disk(work, machine, setting, program, decisions)


def _in_memory(
    work: PlanWork,
    machine: Machine,
    setting: Setting,
    program: ProgramRates | None,
    tables: Sequence[Invariant],
) -> tuple[Setting, list[Decision]]:
    """How much of each table memory holds, beside what a loop cannot do without."""
    others = [s for s in work.stages.values() if not s.is_cache and s.provenance != "assumed"]
    kept = sum(worker_bytes(s, setting) for s in others)
    room = max(0.0, setting.memory - kept - left_by_caches(setting.memory))
    needed = sum(t.bytes for t in tables)
    if needed <= room or (len(tables) < 2 and not kept):
        return setting, []
    held = {n: int(size) for n, size in held_bytes(tables, room).items()}
    chosen = replace(setting, neutral=replace(setting.neutral, held=held))
    if len(tables) < 2:
        return chosen, []
    found, in_order = (plan_cost(work, machine, s, program) for s in (chosen, setting))
    if in_order.total_seconds <= found.total_seconds:
        return setting, []
    parts = ", ".join(f"{bytes_text(size)} of t{n}" for n, size in held.items())
    about = f"caches, {bytes_text(needed)} for {bytes_text(room)}"
    second = "in the order of the plan", in_order.total_seconds
    return chosen, [Decision(about, parts, found.total_seconds, *second, in_order.provenance)]


def _within_disk(
    work: PlanWork,
    machine: Machine,
    setting: Setting,
    program: ProgramRates | None,
    decisions: list[Decision],
) -> tuple[Setting, list[Decision]]:
    """Cache files as far as the disk has room, those that save most per byte first; and for each
    table that memory does not hold what becomes of its rest."""
    filed = setting.neutral.filed
    cost = plan_cost(work, machine, setting, program)
    missing = {n: size for n, size in cost.missing.items() if size > 0}
    left = setting.disk - sum(cost.spilled.values())

    def total(chosen: frozenset[int]) -> float:
        neutral = replace(setting.neutral, filed=chosen)
        return plan_cost(work, machine, replace(setting, neutral=neutral), program).total_seconds

    gains = {n: (total(filed - {n}) - cost.total_seconds) / missing[n] for n in filed & {*missing}}
    for number in sorted(gains, key=lambda n: -gains[n]):
        if missing[number] <= left:
            left -= missing[number]
        else:
            filed -= {number}
    setting = replace(setting, neutral=replace(setting.neutral, filed=filed))
    for number, size in missing.items():
        is_filed = number in filed
        ways = [(_again_text(work, number), total(filed - {number}))]
        if is_filed or size <= left:
            ways.append(("in a cache file", total(filed | {number})))
        if is_filed:
            ways.reverse()
        about = f"rest of t{number}, {bytes_text(size)}"
        second = ways[1] if len(ways) > 1 else ("", 0.0)
        decisions.append(Decision(about, *ways[0], *second, cost.provenance))
    return setting, decisions


def _again_text(work: PlanWork, number: int) -> str:
    """What becomes of a table's rest without a file: of records as they are in a source."""
    stage = next(s for s in work.stages.values() if s.makes == number)
    amounts = {name for o in stage.operators[:-1] for name in o.amounts}
    return "read again" if amounts and amounts <= DECODING else "made again"


def reads_of_caches(work: PlanWork) -> dict[int, float]:
    """How many of the stages in loops read each cached table."""
    inside = {stage for loop in work.loops for stage in loop.stages}
    return {
        cache.makes: float(sum(cache.makes in work.stages[s].reads for s in inside))
        for cache in work.stages.values()
        if cache.is_cache and cache.makes is not None
    }
