"""Channels whose large messages travel through memory that both ends map: for one host.

The arrays of a large message are copied into a segment, and only its number goes through the
channel; the other end copies them out and says so, and the segment serves the next message. To
copy twice takes a tenth of what frames take: nothing is checksummed, and neither the system nor
ZeroMQ handles the bytes. Segments are reused because memory that the system has just handed out
is slow to write to.

A segment is a `memfd` (see `processes/shared_memory.py`), opened as /proc/<process>/fd/<number>:
it goes with the last process that has it, whatever ends that.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from scalops.engine.cluster.channel import Channels, ChannelSettings, Message
from scalops.engine.cluster.frames import Part
from scalops.engine.cluster.inbox import ALIGNMENT, aligned_array, check_sizes
from scalops.engine.cluster.messages import Mapped, Taken, decode_with_sizes, encode
from scalops.engine.columns import Array

LEAST_BYTES = 128 << 10  # of a message's buffers; below, frames are quicker
MOST_ENVELOPE = 1 << 16  # bytes of a message aside its buffers
# Python keeps two files open for a segment and one for what is mapped: files are few.
MOST_SEGMENTS = 64
MOST_MAPPED = 64
MOST_IDLE_BYTES = 256 << 20  # of segments that wait for the next message
MOST_MAPPED_BYTES = 256 << 20  # of others' segments that stay mapped
_NAME = "scalops-payload"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def can_read_files_of(process: int) -> bool:
    """Whether this process may open the files of another one; hardened systems forbid it."""
    try:
        os.readlink(f"/proc/{process}/cwd")
    except OSError:
        return False
    return True


class Segment:
    """Memory of this process that others can map."""

    def __init__(self, number: int, size: int) -> None:
        """Raises OSError where the machine has not the memory."""
        self.number, self.size = number, size
        self.file = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._close = weakref.finalize(self, os.close, self.file)
        # Memory that is not there would be a bus error when it is written to.
        os.posix_fallocate(self.file, 0, size)
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, _SEALS)
        self._bytes = np.frombuffer(mmap.mmap(self.file, size), np.uint8)

    def write(self, buffers: Sequence[Array]) -> None:
        """Put arrays of bytes one behind the other, each at a multiple of ALIGNMENT."""
        at = 0
        for buffer in buffers:
            self._bytes[at : at + len(buffer)] = buffer
            at += _padded(len(buffer))


class _Pool:
    """The segments of an endpoint."""

    def __init__(self) -> None:
        self._idle: list[Segment] = []
        self._numbers = count(1)
        self._used = 0

    def take(self, size: int) -> Segment | None:
        """The smallest that is large enough, or a new one; None where there are many already.

        Raises OSError.
        """
        fitting = [s for s in self._idle if size <= s.size <= 4 * size]
        if fitting:
            found = min(fitting, key=lambda s: s.size)
            self._idle.remove(found)
        else:
            while self._idle and self._used + len(self._idle) >= MOST_SEGMENTS:
                del self._idle[0]
            if self._used >= MOST_SEGMENTS:
                return None
            found = Segment(next(self._numbers), _roomy(size))
        self._used += 1
        return found

    def give_back(self, segment: Segment) -> None:
        """Keep it for another message; those that have waited longest make room for it."""
        self._used -= 1
        self._idle.append(segment)
        while sum(s.size for s in self._idle) > MOST_IDLE_BYTES:
            del self._idle[0]

    def forget(self, count: int) -> None:
        """So many will not be given back."""
        self._used -= count


class _Mappings:
    """Segments of other processes, those that were used last."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, int], Array] = OrderedDict()

    def find(self, peer: str, body: Mapped) -> Array:
        """The bytes of a segment of a peer. Raises OSError, ValueError."""
        key = peer, body.number
        found = self._found.pop(key, None)
        if found is None:
            found = _mapped(body.process, body.file)
        self._found[key] = found
        while len(self._found) > MOST_MAPPED or self._bytes() > MOST_MAPPED_BYTES:
            self._found.popitem(last=False)
        return found

    def _bytes(self) -> int:
        return sum(map(len, self._found.values()))

    def forget(self, peer: str) -> None:
        """Unmap what is a peer's."""
        for key in [k for k in self._found if k[0] == peer]:
            del self._found[key]


class _Peer:
    """Another end that shares."""

    def __init__(self, process: int | None) -> None:
        self.process = process  # the only one whose files are opened; None: any
        self.under_way: dict[int, Segment] = {}


class SharedChannels(Channels):
    """`Channels` that send what is large to the peers that were `share`d with through memory."""

    def __init__(
        self, own: str, settings: ChannelSettings, token: bytes = b"", *, everybody: bool = False
    ) -> None:
        """`everybody`: all peers are on this host, and share."""
        super().__init__(own, settings, token)
        self._limits, self._everybody = settings, everybody
        self._pool, self._mappings = _Pool(), _Mappings()
        self._peers: dict[str, _Peer] = {}

    def share(self, peer: str, process: int | None = None) -> None:
        """From now on large messages to a peer go through memory; it is on this host.

        Where `process` is given, nothing of another process is ever mapped for the peer.
        """
        self._peers.setdefault(peer, _Peer(process))

    def _shared(self, peer: str) -> _Peer | None:
        if self._everybody and peer not in self._dropped:
            self.share(peer)
        return self._peers.get(peer)

    def send(self, peer: str, body: object, buffers: Sequence[Array] = ()) -> None:
        """As of `Channels`; large arrays are copied at once, and may change afterwards."""
        shared = self._shared(peer) if _is_large(buffers) else None
        if shared is None:
            super().send(peer, body, buffers)
            return
        mapped = self._written(body, buffers, shared)
        if mapped is None:
            super().send(peer, body, buffers)
        else:
            super().send(peer, mapped)

    def send_all(self, peers: Sequence[str], body: object, buffers: Sequence[Array] = ()) -> None:
        """As of `Channels`; large arrays as of `send`."""
        if not _is_large(buffers):
            super().send_all(peers, body, buffers)
            return
        for peer in peers:
            self.send(peer, body, buffers)

    def _written(self, body: object, buffers: Sequence[Array], peer: _Peer) -> Mapped | None:
        flat = [np.ascontiguousarray(b).reshape(-1).view(np.uint8) for b in buffers]
        sizes = [len(b) for b in flat]
        check_sizes(sizes, self._limits)
        envelope = encode(body, sizes)
        if len(envelope) > MOST_ENVELOPE:
            return None
        try:
            segment = self._pool.take(sum(map(_padded, sizes)))
        except OSError:  # no more files or memory: frames need neither
            return None
        if segment is None:
            return None
        segment.write(flat)
        peer.under_way[segment.number] = segment
        return Mapped(os.getpid(), segment.file, segment.number, envelope)

    def arrived(self, peer: str, frames: Sequence[Part], now: float) -> list[Message]:
        """As of `Channels`."""
        messages = super().arrived(peer, frames, now)
        for message in messages:
            if isinstance(message.body, (Mapped, Taken)):
                return self._with_shared(peer, messages)
        return messages

    def _with_shared(self, peer: str, messages: Sequence[Message]) -> list[Message]:
        """The messages, those among them read that lie in memory."""
        found: list[Message] = []
        for message in messages:
            match message.body:
                case Mapped() as body:
                    found += self._read(peer, body)
                case Taken(number=number):
                    self._give_back(peer, number)
                case _:
                    found.append(message)
        return found

    def _read(self, peer: str, mapped: Mapped) -> list[Message]:
        shared = self._shared(peer)
        try:
            if shared is None:
                raise ValueError("memory that nobody expects")
            if shared.process not in (None, mapped.process):
                raise ValueError(f"memory of process {mapped.process}, not of {shared.process}")
            body, sizes = decode_with_sizes(mapped.message)
            check_sizes(sizes, self._limits)
            message = Message(body, _copied(self._mappings.find(peer, mapped), sizes))
        except (OSError, ValueError, MemoryError) as error:
            self.refused["malformed"] += 1
            self.broken[peer] = str(error)
            return []
        super().send(peer, Taken(mapped.number))
        return [message]

    def _give_back(self, peer: str, number: int) -> None:
        shared = self._peers.get(peer)
        segment = None if shared is None else shared.under_way.pop(number, None)
        if segment is None:
            self.refused["senseless"] += 1
        else:
            self._pool.give_back(segment)

    def waiting_bytes(self, peer: str) -> int:
        """As of `Channels`; segments that the peer has not copied yet count."""
        shared = self._peers.get(peer)
        under_way = 0 if shared is None else sum(s.size for s in shared.under_way.values())
        return super().waiting_bytes(peer) + under_way

    def drop(self, peer: str) -> None:
        """As of `Channels`; segments on their way to the peer serve no other message."""
        super().drop(peer)
        self._mappings.forget(peer)
        shared = self._peers.pop(peer, None)
        if shared is not None:
            self._pool.forget(len(shared.under_way))


def _is_large(buffers: Sequence[Array]) -> bool:
    return bool(buffers) and sum(b.nbytes for b in buffers) >= LEAST_BYTES


def _padded(size: int) -> int:
    return -size % ALIGNMENT + size


def _roomy(size: int) -> int:
    """A size that serves similar messages too: at most a quarter more."""
    step = max(mmap.PAGESIZE, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step


def _copied(segment: Array, sizes: Sequence[int]) -> list[Array]:
    if sum(map(_padded, sizes)) > len(segment):
        raise ValueError(f"{sum(sizes):,} bytes in a segment of {len(segment):,}")
    found, at = [], 0
    for size in sizes:
        array = aligned_array(size)
        array[:] = segment[at : at + size]
        found.append(array)
        at += _padded(size)
    return found


def _mapped(process: int, number: int) -> Array:
    """The bytes of a segment of another process. Raises: OSError; ValueError where it is none."""
    path = Path(f"/proc/{process}/fd/{number}")
    if not os.readlink(path).startswith(f"/memfd:{_NAME}"):
        raise ValueError(f"{path} is no memory to be shared")
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # Memory that could shrink would be a bus error when it is read.
        if not fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ValueError(f"{path} is memory that may shrink")
        size = os.fstat(file).st_size
        return np.frombuffer(mmap.mmap(file, size, prot=mmap.PROT_READ), np.uint8)
    finally:
        os.close(file)
