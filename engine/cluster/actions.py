"""What a worker's machine is told, and what it wants done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from scalops.engine.cluster.messages import Members

if TYPE_CHECKING:
    from scalops.engine.cluster.channel import Message
    from scalops.engine.columns import Array


class Outcome(NamedTuple):
    """What a call gave, or what it raised."""

    value: Any
    error: BaseException | None


class Arrived(NamedTuple):
    """A message has come from the driver or another worker."""

    peer: str
    message: Message


class Computed(NamedTuple):
    """The call of a Compute has ended."""

    ticket: int
    outcome: Outcome


@dataclass(frozen=True)
class Tick:
    """It is time for a sign of life."""


Event: TypeAlias = Arrived | Computed | Tick


class Emit(NamedTuple):
    """Send a message."""

    peer: str
    body: Any
    buffers: Sequence[Array] = ()


class Compute(NamedTuple):
    """Call a function: on the compute thread, or at once where it is quick."""

    ticket: int
    call: Callable[[], Any]
    quick: bool = False


class Meet(NamedTuple):
    """Have connections to these workers and to no others."""

    members: Members


class Exit(NamedTuple):
    """End the process."""

    code: int
    reason: str


Action: TypeAlias = Emit | Compute | Meet | Exit
