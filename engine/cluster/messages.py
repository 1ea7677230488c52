"""What the ends of a cluster say to each other: one frozen dataclass for each message.

`job` counts the jobs of one driver, `epoch` the memberships of a job, `op` the commands of a
job. "+ buffers" says that arrays go with the message; what a `piece` holds is settled by who
sends and who takes it. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from scalops.engine.cluster.death_places import Places
from scalops.engine.cluster.message_codec import Between, Codec, MalformedMessage, Most

__all__ = ["MESSAGES", "PROTOCOL", "MalformedMessage", "decode", "decode_with_sizes", "encode"]

PROTOCOL = 1  # both ends must speak the same

Number: TypeAlias = Annotated[int, Between(0, 1 << 62)]
Partition: TypeAlias = Annotated[int, Between(-1, 1 << 31)]  # -1: none
Rank: TypeAlias = Annotated[int, Between(0, 1 << 16)]
Name: TypeAlias = Annotated[str, Most(256)]
Address: TypeAlias = Annotated[str, Most(1024)]
Text: TypeAlias = Annotated[str, Most(1 << 16)]
Key: TypeAlias = Annotated[bytes, Most(64)]
Seconds: TypeAlias = Annotated[float, Between(0, 1e9)]
Versions: TypeAlias = Annotated[dict[str, str], Most(256)]


# From a worker to the driver.


@dataclass(frozen=True)
class Hello:
    """A worker is there and asks to be taken; answered by Welcome or Refused.

    `data` is where other workers reach it, `key` its CURVE public key (b"" on one host),
    `attempt` counts how often it has asked.
    """

    worker: Name
    protocol: Number
    versions: Versions
    host: Name
    process: Number
    cores: Number
    memory: Number
    data: Address
    key: Key
    attempt: Number


@dataclass(frozen=True)
class Heartbeat:
    """A worker is alive, at `partition` (-1: none) of command `op`; it holds `partitions`."""

    worker: Name
    job: Number
    op: Number
    partition: Partition
    cached_bytes: Number
    partitions: Number = 0


@dataclass(frozen=True)
class Replied:
    """A rank's result of a command. + buffers"""

    job: Number
    epoch: Number
    op: Number
    rank: Rank
    piece: Any


@dataclass(frozen=True)
class Sent:
    """What a rank's program sends to the driver before its end. + buffers"""

    job: Number
    epoch: Number
    op: Number
    rank: Rank
    piece: Any


@dataclass(frozen=True)
class Failed:
    """A rank's command ended in an error, as `processes.errors.encode_error` gives it."""

    job: Number
    epoch: Number
    op: Number
    rank: Rank
    error: Any
    partition: Partition


@dataclass(frozen=True)
class Wanted:
    """A rank asks for partitions of a table that lies in the driver's memory.

    Of each from block `first` on, as much as goes into one message.
    """

    job: Number
    epoch: Number
    rank: Rank
    source: Number
    partitions: tuple[Partition, ...]
    first: Number = 0


@dataclass(frozen=True)
class Gone:
    """A rank lacks partitions of kept tables that the plan reads, and cannot make them again.

    `keys` are the tables'.
    """

    job: Number
    epoch: Number
    rank: Rank
    keys: tuple[Text, ...]


@dataclass(frozen=True)
class Finished:
    """Answers Finish: nothing of the job is computed any more."""

    job: Number


@dataclass(frozen=True)
class Bye:
    """A worker leaves."""

    worker: Name
    reason: Text
    places: Places = None


# From the driver to a worker.


@dataclass(frozen=True)
class Welcome:
    """The worker is taken; it ends when it hears nothing for `lease` seconds."""

    session: Name
    lease: Seconds
    settings: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """The worker (or the driver, by a broker) is not taken."""

    reason: Text


@dataclass(frozen=True)
class Begin:
    """A job, or an epoch of it, begins: the worker is one rank of `size`. + buffers: the plan.

    In careful mode a rank reads one partition at a time. `task_timeout`: seconds that a call of a
    user's function may take; 0 for any time. `memory`: bytes of the worker for this job; 0 for what
    it was told when it was started. `held` and `broadcast` are items of those of `Neutral`,
    `filed` the numbers of its. With `profile` each reply says what was measured meanwhile.
    """

    job: Number
    epoch: Number
    rank: Rank
    size: Rank
    fan_ins: tuple[Rank, ...]
    careful: bool
    task_timeout: Seconds = 0.0
    memory: Number = 0
    held: tuple[tuple[Number, Number], ...] = ()
    broadcast: tuple[tuple[Number, Number], ...] = ()
    profile: bool = False
    filed: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Members:
    """Who hosts which rank in an epoch: (rank, worker, data address, public key) of each."""

    job: Number
    epoch: Number
    hosts: tuple[tuple[Rank, Name, Address, Key], ...]


@dataclass(frozen=True)
class Command:
    """A verb to run. + buffers: what `values` refers to, and what is pickled.

    `values` are those of `slots`, as `value_codec.encode_value` gives them; None where they are
    pickled. `forward`: whoever has it passes it on to the ranks below it in the tree.
    """

    job: Number
    epoch: Number
    op: Number
    verb: Name
    arguments: Any
    slots: tuple[Number, ...]
    forward: bool
    values: Any = None


@dataclass(frozen=True)
class Partitions:
    """Answers Wanted: some blocks of a partition. + buffers: what `piece` refers to."""

    job: Number
    epoch: Number
    source: Number
    partition: Partition
    piece: Any


@dataclass(frozen=True)
class Cancel:
    """A command is not wanted any more: `at_once`, or as soon as it waits for another rank."""

    job: Number
    op: Number
    at_once: bool


@dataclass(frozen=True)
class Finish:
    """A job is over: its tables can go."""

    job: Number


@dataclass(frozen=True)
class Forget:
    """Kept tables that nobody will ask for any more, by their keys."""

    keys: tuple[Text, ...]


@dataclass(frozen=True)
class Ping:
    """The driver is alive."""


@dataclass(frozen=True)
class Shutdown:
    """The worker is to end."""

    reason: Text


# Between workers.


@dataclass(frozen=True)
class Data:
    """What a program of rank `rank` sends to rank `to`. + buffers"""

    job: Number
    epoch: Number
    op: Number
    rank: Rank
    to: Rank
    piece: Any


@dataclass(frozen=True)
class Streamed:
    """A piece of the shuffle `turn` of a command, from rank `rank` to rank `to`. + buffers"""

    job: Number
    epoch: Number
    op: Number
    turn: Number
    rank: Rank
    to: Rank
    piece: Any


@dataclass(frozen=True)
class StreamEnd:
    """Rank `rank` has no more pieces for rank `to` in this shuffle."""

    job: Number
    epoch: Number
    op: Number
    turn: Number
    rank: Rank
    to: Rank


@dataclass(frozen=True)
class Credit:
    """Rank `rank` has taken so many bytes of what rank `to` streamed to it in this shuffle."""

    job: Number
    epoch: Number
    op: Number
    turn: Number
    rank: Rank
    to: Rank
    bytes: Number


# Between processes of one host, beneath all others.


@dataclass(frozen=True)
class Mapped:
    """A message whose buffers lie in a segment of memory: that of file `file` of `process`."""

    process: Number
    file: Number
    number: Number
    message: Annotated[bytes, Most(1 << 16)]


@dataclass(frozen=True)
class Taken:
    """The buffers in a segment have been copied out: it can serve another message."""

    number: Number


# With a broker.


@dataclass(frozen=True)
class Attach:
    """A driver asks for a running cluster's workers; answered by Attached or Refused."""

    driver: Name
    protocol: Number
    versions: Versions
    host: Name
    process: Number


@dataclass(frozen=True)
class Attached:
    """The driver is taken; `workers` are those alive, with the fields of Joined."""

    session: Name
    workers: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Joined:
    """A worker has come; fields as in Hello."""

    worker: Name
    versions: Versions
    host: Name
    process: Number
    cores: Number
    memory: Number
    data: Address
    key: Key


@dataclass(frozen=True)
class Left:
    """A worker is lost for ever; `replaced`: its host lives, and starts another one."""

    worker: Name
    reason: Text
    replaced: bool = False
    places: Places = None


@dataclass(frozen=True)
class Status:
    """Asks a broker for its workers."""


@dataclass(frozen=True)
class StatusIs:
    """A row for each worker: what it is, and what it does."""

    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Stop:
    """The cluster is to end."""


@dataclass(frozen=True)
class Queued:
    """A driver waits, at `place` in line; `served` is the driver whose turn it is.

    "" where the workers of the one before are being replaced.
    """

    place: Number
    served: Name


@dataclass(frozen=True)
class Serve:
    """A broker's worker is to serve a driver, with which it talks as of `session`."""

    session: Name
    driver: Name


@dataclass(frozen=True)
class Detach:
    """The session is over: said by its driver to the broker, by the broker to its workers."""

    session: Name
    reason: Text


# A number stays its message's for ever; a new message takes a new one.
MESSAGES: dict[int, type] = {
    1: Hello,
    2: Heartbeat,
    3: Replied,
    4: Sent,
    5: Failed,
    7: Wanted,
    8: Bye,
    9: Gone,
    10: Finished,
    20: Welcome,
    21: Refused,
    22: Begin,
    23: Members,
    24: Command,
    25: Partitions,
    26: Cancel,
    27: Finish,
    28: Ping,
    29: Shutdown,
    30: Forget,
    40: Data,
    41: Streamed,
    42: StreamEnd,
    44: Credit,
    50: Mapped,
    51: Taken,
    60: Attach,
    61: Attached,
    62: Joined,
    63: Left,
    64: Status,
    65: StatusIs,
    66: Stop,
    67: Queued,
    68: Serve,
    69: Detach,
}
_CODEC = Codec(MESSAGES)


def encode(body: Any, sizes: Sequence[int] = ()) -> bytes:
    """A message as msgpack, with the sizes in bytes of the buffers that go with it.

    Raises: MalformedMessage where a field is not what its annotation says, or too large.
    """
    return _CODEC.encode(body, sizes)


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The message; MalformedMessage for what is none."""
    return _CODEC.decode(data)[0]


def decode_with_sizes(data: bytes | bytearray | memoryview) -> tuple[Any, Sequence[int]]:
    """The message and the sizes of its buffers in bytes; MalformedMessage for what is none."""
    return _CODEC.decode(data)
