"""Folding in a worker process: the stages of a plan over tables in shared memory.

A worker builds the same reductions, kernels and leaves from the same stages as the driver does,
over blocks with the same bounds, so that a leaf's partial has the same bits wherever it is made.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scalops.engine import physical_plan as pp
from scalops.engine.columns import Array
from scalops.engine.memory import MemoryBudget
from scalops.engine.meter import Meter
from scalops.engine.passes import Pass, Reduction
from scalops.engine.pipelines.base import HeldTable, Runtime
from scalops.engine.pipelines.compiled import build
from scalops.engine.processes.messages import Message
from scalops.engine.processes.shared_memory import TablePlace, TakenTokens
from scalops.engine.stacked import Stacks
from scalops.engine.value_codec import encode_value


@dataclass(frozen=True)
class Told:
    """What a worker is told of a plan: its stages, once; tables as they come to be shared."""

    stages: tuple[pp.Stage, ...]
    stacks: tuple[tuple[int, ...], ...]
    slots: int
    buffer_bytes: int | None
    profile: bool = False  # whether it is to measure its operators


class _Plan:
    """The stages of a plan that fold here."""

    def __init__(self, told: Told) -> None:
        plan = pp.PhysicalPlan(told.stages, (), (("", None),) * told.slots, (), (), "")  # type: ignore[arg-type]
        budget, self.meter = MemoryBudget(told.buffer_bytes), Meter() if told.profile else None
        if self.meter is not None:
            self.meter.begin(told.stages)
        self.runtime = Runtime(plan, budget, meter=self.meter)
        self.reductions = {
            s.number: Reduction(s, build(s.source, self.runtime, s), self.runtime)
            for s in told.stages
        }
        self.stacks = Stacks(told.stacks, told.stages, self.reductions, self.runtime)
        self.passes: dict[tuple[tuple[int, ...], ...], Pass] = {}

    def bind(self, values: Mapping[int, Any]) -> None:
        self.runtime.bind(values)

    def hold(self, tables: Mapping[int, TablePlace]) -> None:
        for number, place in tables.items():
            self.runtime.tables[number] = HeldTable(place.mapped(), place.source_bytes)
        self.passes.clear()  # leaves follow from the tables


@dataclass
class FoldWorker:
    """Answers requests for folds."""

    _plans: dict[str, _Plan] = field(default_factory=dict)
    _tokens: dict[tuple[int, int], TakenTokens] = field(default_factory=dict)

    def answer(self, header: dict[str, Any], buffers: list[Array]) -> Message:
        """The leaves of the chunks that it took, or why it took none, or no more."""
        made: list[Array] = []
        reply: dict[str, Any] = {"parts": []}
        try:
            self._forget(header)
            if "plan" in header:
                self._fold(header, buffers, reply, made)
        except Exception as error:  # the driver does it itself, and finds out what is wrong
            reply["failed"] = f"{type(error).__name__}: {error}"
        return Message(reply, made)

    def _forget(self, header: dict[str, Any]) -> None:
        for key in header.get("forget", ()):
            self._plans.pop(key, None)
            for tokens in self._tokens.values():
                tokens.close()
            self._tokens.clear()

    def _fold(
        self,
        header: dict[str, Any],
        buffers: list[Array],
        reply: dict[str, Any],
        made: list[Array],
    ) -> None:
        where = tuple(header["tokens"])
        tokens = self._tokens.get(where)
        if tokens is None:
            tokens = self._tokens[where] = TakenTokens.opened(*where)
        try:
            pass_ = self._told(header, buffers)
            pass_.begin()
            size = header["size"]
            while (chunk := tokens.take()) is not None:
                leaves = pass_.combined(pass_.chunk(0, chunk * size, (chunk + 1) * size))
                reply["parts"].append([chunk, encode_value(leaves, made)])
            meter = self._plans[header["plan"]].meter
            if meter is not None:
                reply["measured"] = meter.taken().to_data()
        except BaseException:
            tokens.drain()  # of what follows nothing is wanted
            raise

    def _told(self, header: dict[str, Any], buffers: list[Array]) -> Pass:
        key, units = header["plan"], tuple(map(tuple, header["units"]))
        if "told" in header:  # from the driver, as all that comes here
            self._plans[key] = _Plan(pickle.loads(buffers[header["told"]].data))
        plan = self._plans[key]
        if "tables" in header:
            plan.hold(pickle.loads(buffers[header["tables"]].data))
        if "slots" in header:
            plan.bind(pickle.loads(buffers[header["slots"]].data))
        if "active" in header:
            reductions = [plan.stacks.unit(unit) for unit in units]
            plan.passes[units] = Pass(reductions, header["active"])
        return plan.passes[units]
