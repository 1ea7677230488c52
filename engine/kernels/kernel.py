"""An expression set compiled once to steps over blocks, with reused buffers.

Expressions that read no column are uniform: computed once per iteration. The others are
computed block by block. Equal expressions share a register. Elementwise steps write into
preallocated buffers, which are reused as soon as their content has been read for the last time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, ScalopsError
from scalops.algebra.tree import Node
from scalops.engine.blocks import BLOCK_BYTES, MAX_BLOCK_ROWS, Array, Block, ColumnData
from scalops.engine.columns import arrow_type
from scalops.engine.kernels.arrow import arrow_step
from scalops.engine.kernels.batched import batched
from scalops.engine.kernels.buffers import Step, assign_buffers
from scalops.engine.kernels.nulls import apply_over, minds_nulls, neutral, of_none
from scalops.engine.kernels.sparse import repeated
from scalops.engine.opaque.arguments import Argument, Column, Uniform, column
from scalops.engine.opaque.batches import call_over
from scalops.engine.opaque.calls import bind, python_value

if TYPE_CHECKING:
    from scalops.engine.processes.messages import Slots
    from scalops.engine.processes.runner import ProcessRunner

Vector = tuple[ColumnData, Array | None]  # values and mask of one expression over a block


@dataclass
class Frame:
    """One thread's registers and buffers for a kernel."""

    registers: list[Any]
    buffers: list[Array | None]
    version: int = -1
    nulls: set[int] = field(default_factory=set)  # registers of null for every record
    buffered: bool = True
    functions: dict[int, Callable[..., Any]] = field(default_factory=dict)
    slots: dict[int, Slots] = field(default_factory=dict)
    runner: ProcessRunner | None = None  # where opaque functions run, if not in this process


class Kernel:
    """Expressions over a block's columns; `roots` in order.

    With `transient`, results live in buffers until the next block: for folds, which read them
    at once. Otherwise results are fresh arrays.
    """

    def __init__(self, roots: Sequence[ex.Expression], rows: int, transient: bool = False) -> None:
        self._rows, self._transient = rows, transient
        self._register: dict[Node, int] = {}
        self._constants: list[Any] = []
        self._held: list[tuple[int, Any]] = []
        self._columns: list[tuple[int, str]] = []
        self._slots: list[tuple[int, int]] = []
        self._uniform: list[Step] = []
        self._steps: list[Step] = []
        self._batched: dict[Node, bool] = {}
        for root in roots:
            self._compile(root)
        self._roots = [(self._register[r], self._batched[r], r) for r in roots]
        # What is the same for every record: nodes are not to be looked up in each iteration.
        self._single = [(r, e) for e, r in self._register.items() if not self._batched[e]]
        self._piece = _rows_at_once(self._steps)
        self._rows = min(rows, self._piece)
        registers = [r for r, _, _ in self._roots]
        self._buffers = assign_buffers(
            self._steps, registers, self._register, self._rows, self._transient
        )
        self._masked = any(
            isinstance(s.node, ex.Opaque) or minds_nulls(s.node) for s in self._steps
        )

    @property
    def buffer_bytes(self) -> int:
        """Bytes that one thread's buffers take."""
        return sum(b.bytes for b in self._buffers)

    # Compilation.

    def _compile(self, root: ex.Expression) -> None:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, entered = stack.pop()
            if node in self._register or not isinstance(node, ex.Expression):
                continue
            if not entered:
                stack.append((node, True))
                stack.extend((c, False) for c in reversed(node.children))
                continue
            register = self._register[node] = len(self._constants)
            self._constants.append(None)
            self._batched[node] = self._add(node, register)

    def _add(self, node: ex.Expression, register: int) -> bool:
        match node:
            case ex.Constant(value=value):
                self._constants[register] = value
                return False
            case ex.Held(value=value):
                self._held.append((register, value))
                return False
            case ex.Column(name=name, record=record):
                self._columns.append((register, name if record == 0 else f"{name}'{record}"))
                return True
            case ex.Slot(number=number):
                self._slots.append((register, number))
                return False
            case ex.Item(source=source, index=index):
                step = Step(node, (self._register[source],), register, _item(index))
                return self._place(step, self._batched[source])
            case ex.Call(arguments=arguments):
                flags = [self._batched[a] for a in arguments]
                registers = tuple(self._register[a] for a in arguments)
                step = Step(node, registers, register, _callable(node, flags), None, tuple(flags))
                return self._place(step, any(flags))
            case ex.Opaque():
                return self._place(Step(node, (), register, _no_call), True)
        raise TypeError(f"{type(node).__name__} cannot be compiled")

    def _place(self, step: Step, batched_step: bool) -> bool:
        (self._steps if batched_step else self._uniform).append(step)
        return batched_step

    # Running.

    def frame(self, buffered: bool = True, runner: ProcessRunner | None = None) -> Frame:
        """Registers for one thread, with buffers where there is memory for them."""
        buffers: list[Array | None] = [None] * len(self._buffers)
        return Frame(list(self._constants), buffers, buffered=buffered, runner=runner)

    def pieces(self, block: Block) -> Iterator[Block]:
        """The block, cut where sparse vectors become dense arrays, which are far larger."""
        if block.rows <= self._piece:
            yield block
            return
        for start in range(0, block.rows, self._piece):
            yield block.slice(start, min(start + self._piece, block.rows))

    def prepare(self, frame: Frame, slots: Sequence[Any], version: int) -> None:
        """Bind driver values and compute what is the same for every record."""
        if frame.version == version:
            return
        frame.version = version
        registers = frame.registers
        for register, value in self._held:
            registers[register] = value
        for register, slot in self._slots:
            registers[register] = slots[slot]
        for step in self._uniform:
            registers[step.target] = _uniform(step, [registers[a] for a in step.arguments])
        for step in self._steps:
            if isinstance(step.node, ex.Opaque):
                values = [python_value(registers[self._register[s]]) for s in step.node.slots]
                if frame.runner is None:
                    frame.functions[step.target] = bind(step.node.function, values)
                else:
                    frame.slots[step.target] = frame.runner.slots(values)
        frame.nulls.clear()
        for register, node in self._single:
            if registers[register] is None:
                assert isinstance(node, ex.Expression)
                registers[register] = neutral(node.type)
                frame.nulls.add(register)

    def run(self, frame: Frame, block: Block) -> list[Vector]:
        """Values and masks of the roots over a block."""
        if block.valid or self._masked or frame.nulls:
            return self._run_masked(frame, block)
        registers, columns, rows = frame.registers, block.columns, block.rows
        for register, name in self._columns:
            registers[register] = columns[name]
        step = None
        try:
            for step in self._steps:
                arguments = [registers[a] for a in step.arguments]
                if step.buffer is None:
                    registers[step.target] = step.apply(*arguments)
                else:
                    registers[step.target] = step.apply(
                        *arguments, out=self._buffer(frame, step.buffer, rows)
                    )
        except ScalopsError as error:
            raise _placed(step, error) from error.__cause__
        except Exception as error:
            raise _failed(step, error) from error
        return [
            (registers[r] if b else _spread(registers[r], e.type, rows), None)
            for r, b, e in self._roots
        ]

    def _buffer(self, frame: Frame, number: int, rows: int) -> Array:
        buffer = frame.buffers[number]
        if buffer is None or len(buffer) < rows:
            buffer = self._buffers[number].make(rows)
            # Without room for it, one at a time in the same layout: the memory at hand must not
            # decide how it is added up.
            frame.buffers[number] = buffer if frame.buffered else None
        return buffer[:rows]

    def _run_masked(self, frame: Frame, block: Block) -> list[Vector]:
        """As `run`, with a mask beside every register that holds nulls."""
        registers, rows = frame.registers, block.rows
        masks: dict[int, Array] = {}
        for register, name in self._columns:
            registers[register] = block.columns[name]
            if name in block.valid:
                masks[register] = block.valid[name]
        for register in frame.nulls:
            masks[register] = np.zeros(rows, bool)
        for step in self._steps:
            if isinstance(step.node, ex.Opaque):
                vectors = self._call_opaque(step.node, frame, step, masks, block)
                registers[step.target] = vectors
                continue
            if isinstance(step.node, ex.Item) and isinstance(step.node.source, ex.Opaque):
                values, mask = registers[step.arguments[0]][step.node.index]
                registers[step.target] = values
                if mask is not None:
                    masks[step.target] = mask
                continue
            arguments = [registers[a] for a in step.arguments]
            own = [masks.get(a) for a in step.arguments]
            if isinstance(step.node, ex.Call):
                values, mask = _guarded(step, arguments, own, rows)
            else:
                values, mask = step.apply(*arguments), own[0]
            registers[step.target] = values
            if mask is not None:
                masks[step.target] = mask
        return [
            (registers[r] if b else _spread(registers[r], e.type, rows), masks.get(r))
            for r, b, e in self._roots
        ]

    def _call_opaque(
        self, node: ex.Opaque, frame: Frame, step: Step, masks: Mapping[int, Array], block: Block
    ) -> list[Vector]:
        rows = block.rows

        def read(e: ex.Expression) -> Column | Uniform:
            register = self._register[e]
            values = frame.registers[register]
            if not self._batched[e]:
                return Uniform(None if register in frame.nulls else python_value(values))
            return column(values, masks.get(register))

        arguments = [
            Argument(None, (read(record),))
            if isinstance(record, ex.Expression)
            else Argument(tuple(n for n, _ in record), tuple(read(e) for _, e in record))
            for record in node.records
        ]
        if frame.runner is None:
            function = frame.functions[step.target]
            made = call_over(node.function, function, arguments, rows, node.names, node.outputs)
        else:
            source = None if block.identity is None else _read_columns(node)
            made = frame.runner.call_rows(
                node.function,
                frame.slots[step.target],
                arguments,
                rows,
                node.names,
                node.outputs,
                None if source is None else (block.identity, source),
            )
        return [(c.values, c.mask) for c in made]


def _read_columns(node: ex.Opaque) -> tuple[object, ...] | None:
    """The columns that a function's records hold; None where they hold anything else."""
    read: list[object] = []
    for record in node.records:
        fields = ((None, record),) if isinstance(record, ex.Expression) else record
        for name, e in fields:
            if not isinstance(e, ex.Column):
                return None
            read.append((name, e.name, e.record))
        read.append(None)
    return tuple(read)


def _rows_at_once(steps: Sequence[Step]) -> int:
    """Records whose arrays made of sparse vectors fit into a block; MAX_BLOCK_ROWS if all do."""
    kinds = [s.node.any_type for s in steps]
    calls = [s.node for s in steps if isinstance(s.node, ex.Call)]
    if not any(a.type.is_sparse for c in calls for a in c.arguments):
        return MAX_BLOCK_ROWS
    widest = max(k.bytes for k in kinds if isinstance(k, ArrayType))
    return max(1, min(MAX_BLOCK_ROWS, BLOCK_BYTES // max(1, widest)))


def _callable(node: ex.Call, flags: Sequence[bool]) -> Callable[..., Any]:
    if not any(flags):
        parameters = dict(node.parameters)
        if not parameters:
            return node.function.evaluate
        evaluate = node.function.evaluate
        return lambda *arguments: evaluate(*arguments, **parameters)
    return arrow_step(node, flags) or batched(node, flags)


def _item(index: int) -> Callable[[Any], Any]:
    return lambda several: several[index]


def _no_call(*_: Any) -> Any:
    raise AssertionError("an opaque step is called with its frame")


def _uniform(step: Step, arguments: list[Any]) -> Any:
    """A value that is the same for every record."""
    if any(a is None for a in arguments):
        return of_none(step.node, arguments) if isinstance(step.node, ex.Call) else None
    try:
        return step.apply(*arguments)
    except ScalopsError as error:
        raise _placed(step, error) from error.__cause__
    except Exception as error:
        raise _failed(step, error) from error


def _guarded(
    step: Step, arguments: list[Any], masks: list[Array | None], rows: int
) -> tuple[Any, Array | None]:
    """A step's values over a block, with their mask."""
    assert isinstance(step.node, ex.Call)
    try:
        return apply_over(step.node, step.apply, arguments, masks, step.flags, rows)
    except ScalopsError as error:
        raise _placed(step, error) from error.__cause__
    except Exception as error:
        raise _failed(step, error) from error


def _placed(step: Step | None, error: ScalopsError) -> ScalopsError:
    """The error with the user's line of the step."""
    error.location = error.location or (None if step is None else step.node.location)
    return error


def _failed(step: Step | None, error: Exception) -> ExecutionError:
    node = None if step is None else step.node
    name = node.function.name if isinstance(node, ex.Call) else "a step"
    return ExecutionError(
        f"{name} failed: {error}", location=None if node is None else node.location
    )


def _spread(value: Any, kind: ArrayType, rows: int) -> Any:
    """A uniform value as a column."""
    if kind.is_arrow:
        return pa.array([value], arrow_type(kind)).take(pa.array(np.zeros(rows, np.int64)))
    if kind.is_sparse:
        return repeated(value, rows)
    return np.broadcast_to(np.asarray(value, dtype=kind.numpy), (rows, *kind.shape))
