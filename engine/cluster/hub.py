"""What a cluster's backend needs of the outside world: workers, and messages to and from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from scalops.algebra.errors import ScalopsError
    from scalops.engine.cluster.channel import Channels, Message
    from scalops.engine.progress import Place


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that has been let in."""

    worker: str  # random, and never used again once it is lost
    host: str
    process: int
    cores: int
    memory: int  # bytes
    data: str  # the address at which other workers reach it
    key: bytes = b""  # its public key; none on this machine


class Arrived(NamedTuple):
    """A worker has sent a message."""

    worker: str
    message: Message


class Joined(NamedTuple):
    """A worker has been let in."""

    info: WorkerInfo


class Left(NamedTuple):
    """A worker is gone for good, whether or not it had joined; nothing of it arrives any more."""

    worker: str
    reason: str
    places: tuple[Place, ...] | None = None  # where its threads were; None: nobody knows
    error: ScalopsError | None = None  # of a user's function that it had to be ended for


HubEvent: TypeAlias = Arrived | Joined | Left


class Hub(Protocol):
    """The workers of a session, wherever they are. One thread at a time may use it, but `wake`."""

    refused: Counter[str]  # what has been turned away, by reason

    @property
    def channels(self) -> Channels:
        """Those to the workers."""
        ...

    def workers(self) -> list[WorkerInfo]:
        """Those alive now, in order of arrival."""
        ...

    def pump(self, timeout: float | None) -> list[HubEvent]:
        """Send what is to be sent, and wait for something at most so many seconds; None: as long
        as it takes. What is there already is given without any wait.
        """
        ...

    def ask_for(self, count: int) -> int:
        """Have so many workers, if this hub can start some; they join as they are ready.

        Gives how many there will be.
        """
        ...

    def end(self, worker: str, reason: str) -> None:
        """Give a worker up: it leaves."""
        ...

    def wake(self) -> None:
        """From a signal handler or another thread: `pump` returns soon."""
        ...

    def close(self) -> None:
        """End what this hub has started, and give back all it holds. Again: nothing."""
        ...
