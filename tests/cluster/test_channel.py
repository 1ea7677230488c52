"""Channels over frames that are lost, doubled, reordered, delayed, damaged, replayed, forged."""

import heapq
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import msgpack
import numpy as np
import pytest

from scalops.algebra.errors import ConfigError
from scalops.engine.cluster.channel import Channels, ChannelSettings, Frames, Message
from scalops.engine.cluster.frames import (
    HEADER_BYTES,
    MAGIC,
    MOST_PARTS,
    Header,
    header_part,
    mark_of,
    read_frame,
)
from scalops.engine.cluster.messages import MalformedMessage, Ping, Replied, encode
from scalops.engine.cluster.security import MAX_PARTS
from scalops.engine.columns import Array

DEFAULT = ChannelSettings()
SMALL = ChannelSettings(frame_bytes=2048, window_bytes=16 << 10, window_frames=16)
BODY = Replied(1, 1, 7, 0, ["partial", {"rows": 1.5}])


def flat(frames: Sequence[bytes | memoryview]) -> list[bytes]:
    """A copy of a frame, as a recorder or a network would hold it."""
    return [bytes(part) for part in frames]


def transfer(source: Channels, target: Channels, now: float = 0.0) -> list[Message]:
    """Transmit all that `source` has, which is named a, to `target`, which is named b."""
    found: list[Message] = []
    for peer, frames in source.outgoing(now):
        assert peer == "b"
        found += target.arrived("a", frames, now)
    return found


def pair(settings: ChannelSettings = DEFAULT) -> tuple[Channels, Channels]:
    """Two endpoints, a and b."""
    return Channels("a", settings), Channels("b", settings)


def sent_over(a: Channels, b: Channels, body: Any, buffers: Sequence[Array] = ()) -> list[Message]:
    """Send from a to b until all is acknowledged; what arrives."""
    a.send("b", body, buffers)
    found, now = [], 0.0
    while a.waiting_bytes("b"):
        assert now < 60
        found += transfer(a, b, now)
        now += DEFAULT.ack_seconds
        for _, frames in b.outgoing(now):
            assert not a.arrived("b", frames, now)
    return found


# What is sent arrives.


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.arange(3, dtype=np.uint8),
        np.array(2.5),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(20)[::3],
        np.array([True, False]),
        np.array(["2024-01-01"], "datetime64[ns]"),
        np.frombuffer(b"read only", np.uint8),
        np.array([float("nan"), -0.0]),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_any_array_arrives_as_bytes(array: Array) -> None:
    (message,) = sent_over(*pair(), BODY, [array, np.arange(5)])
    assert message.body == BODY
    assert message.buffers[0].tobytes() == array.tobytes()
    assert message.buffers[1].tobytes() == np.arange(5).tobytes()


@pytest.mark.parametrize("size", [0, 1, 1000, 20_000, 3_000_000])
def test_buffers_that_arrive_can_be_used_as_any_array(size: int) -> None:
    source = np.random.default_rng(size).integers(256, size=size).astype(np.uint8)
    (message,) = sent_over(*pair(), BODY, [source, source])
    for buffer in message.buffers:
        assert buffer.dtype == np.uint8
        assert buffer.flags.writeable
        assert buffer.flags.c_contiguous
        assert buffer.ctypes.data % (64 if size > 10_000 else 16) == 0
        assert not np.shares_memory(buffer, source)
        assert np.array_equal(buffer, source)


@pytest.mark.parametrize("count", [1, 3, 5_000])
def test_many_small_buffers_take_few_parts(count: int) -> None:
    a, b = pair()
    buffers = [np.full(i % 200, i % 256, np.uint8) for i in range(count)]
    a.send("b", BODY, buffers)
    frames = a.outgoing(0.0)
    assert sum(len(parts) for _, parts in frames) <= 3 * len(frames)
    (message,) = [m for _, parts in frames for m in b.arrived("a", parts, 0.0)]
    assert [x.tobytes() for x in message.buffers] == [x.tobytes() for x in buffers]


@pytest.mark.parametrize("size", [64 << 10, (64 << 10) - 1, 90_000, 4096, 1 << 20])
def test_frames_keep_their_limits(size: int) -> None:
    a, b = pair()
    sizes = [size, 3] * min(40, (7 << 20) // size)  # large and small ones by turns
    buffers = [np.full(n, i, np.uint8) for i, n in enumerate(sizes)]
    a.send("b", BODY, buffers)
    frames = [parts for _, parts in a.outgoing(0.0)]
    assert all(sum(map(len, parts)) <= 1 << 20 for parts in frames)
    assert all(len(parts) <= MOST_PARTS for parts in frames)
    # The sockets take so many, those that say from whom and to whom included.
    assert MOST_PARTS + 4 <= MAX_PARTS
    (message,) = [m for parts in frames for m in b.arrived("a", parts, 0.0)]
    assert all(map(np.array_equal, message.buffers, buffers))


def test_large_arrays_are_not_copied() -> None:
    a, _ = pair()
    array = np.arange(500_000.0)
    a.send("b", BODY, [np.zeros(3), array])
    parts = [part for _, frames in a.outgoing(0.0) for part in frames[1:]]
    views = [view for view in (np.frombuffer(part, np.uint8) for part in parts) if view.size > 24]
    assert len(views) >= 4
    large = [view for view in views if view.size >= 64 << 10]
    assert all(np.shares_memory(view, array) for view in large)
    assert sum(view.size for view in large) > array.nbytes - (64 << 10)


def test_small_messages_to_and_fro_take_one_frame_each() -> None:
    ends = {"a": Channels("a", DEFAULT), "b": Channels("b", DEFAULT)}
    for i in range(100):
        own, other = ("a", "b") if i % 2 else ("b", "a")
        ends[own].send(other, BODY, [np.arange(i)])
        ((peer, frames),) = ends[own].outgoing(i * 0.001)
        assert (peer, len(frames)) == (other, 1)
        (message,) = ends[other].arrived(own, frames, i * 0.001)
        assert message.body == BODY
    # Behind the last one follows what says that it came, and then nothing.
    following = []
    while times := [t for t in (end.deadline() for end in ends.values()) if t is not None]:
        for own, other in ("ab", "ba"):
            for _, frames in ends[own].outgoing(min(times)):
                following.append(flat(frames))
                ends[other].arrived(own, frames, min(times))
    assert [[len(part) for part in frames] for frames in following] == [[HEADER_BYTES]]
    assert [ends[own].waiting_bytes(other) for own, other in ("ab", "ba")] == [0, 0]


def test_messages_of_many_peers_do_not_mix() -> None:
    center = Channels("center", DEFAULT)
    others = {name: Channels(name, DEFAULT) for name in ("x", "y", "z")}
    for i in range(5):
        for name in others:
            center.send(name, replace(BODY, piece=f"{name}{i}"))
    found: dict[str, list[str]] = {name: [] for name in others}
    for peer, frames in center.outgoing(0.0):
        found[peer] += [m.body.piece for m in others[peer].arrived("center", frames, 0.0)]
    assert found == {name: [f"{name}{i}" for i in range(5)] for name in others}


def test_waiting_bytes_fall_when_acknowledged() -> None:
    a, b = pair()
    a.send("b", BODY, [np.zeros(1000)])
    size = len(encode(BODY, [8000])) + 8000
    assert a.waiting_bytes("b") == size
    transfer(a, b)
    assert a.waiting_bytes("b") == size
    for _, frames in b.outgoing(1.0):
        a.arrived("b", frames, 1.0)
    assert a.waiting_bytes("b") == a.waiting_bytes("nobody") == 0


# Flow.


def test_no_more_than_the_window_is_under_way() -> None:
    a, b = pair()
    a.send("b", BODY, [np.zeros(5 << 20)])
    first = a.outgoing(0.0)
    size = sum(len(part) for _, frames in first for part in frames)
    assert DEFAULT.window_bytes <= size <= DEFAULT.window_bytes + DEFAULT.frame_bytes
    assert not a.outgoing(0.001)
    for _, frames in first:
        b.arrived("a", frames, 0.002)
    ((_, frames),) = b.outgoing(0.002)  # at once: much has come
    a.arrived("b", frames, 0.002)
    assert len(a.outgoing(0.002)) == len(first)


def test_small_frames_under_way_are_limited_too() -> None:
    a, b = pair(SMALL)
    for i in range(100):
        a.send("b", replace(BODY, op=i))
    assert len(a.outgoing(0.0)) == SMALL.window_frames
    assert [m.body.op for m in sent_over(a, b, replace(BODY, op=100))] == list(range(101))


def test_frames_beyond_the_window_are_refused_and_take_no_memory() -> None:
    b = Channels("b", DEFAULT)
    tracemalloc.start()
    try:
        for i in range(2, 200):
            part = bytes(1 << 19)
            b.arrived("a", forged(sequence=i, number=i, parts=[part]), 0.0)
            b.arrived("a", forged(sequence=i + 2000, number=i, parts=[part]), 0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert b.refused["window"] > 300
    assert peak < DEFAULT.window_bytes + (4 << 20)


def test_claimed_memory_is_taken_only_when_filled() -> None:
    b = Channels("b", DEFAULT)
    envelope = encode(BODY, [1 << 10, *[64 << 20] * 60])
    tracemalloc.start()
    try:
        frames = forged(sequence=1, number=1, envelope=len(envelope), payload=envelope)
        assert b.arrived("a", frames, 0.0) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not b.broken
    assert peak < 1 << 20


# Losses.


def test_only_the_lost_frame_is_sent_again() -> None:
    a, b = pair()
    source = np.arange(1_000_000.0)
    a.send("b", BODY, [source])
    frames = [parts for _, parts in a.outgoing(0.0)]
    for parts in [*frames[:3], *frames[4:]]:
        assert not b.arrived("a", parts, 0.01)
    for _, parts in b.outgoing(0.01):
        a.arrived("b", parts, 0.02)
    ((_, again),) = a.outgoing(0.02)
    assert flat(again)[1:] == flat(frames[3])[1:]
    (message,) = b.arrived("a", again, 0.03)
    assert np.array_equal(message.buffers[0].view(np.float64), source)


def test_when_all_frames_are_lost_a_probe_finds_it_out() -> None:
    a, b = pair()
    a.send("b", BODY, [np.arange(700_000.0)])
    lost = a.outgoing(0.0)
    now = a.deadline()
    assert now == DEFAULT.retransmission_seconds
    ((_, probe),) = a.outgoing(now)
    assert not b.arrived("a", probe, now)
    for _, parts in b.outgoing(now + DEFAULT.ack_seconds):
        a.arrived("b", parts, now)
    again = a.outgoing(now)
    assert len(again) == len(lost) - 1
    (message,) = [m for _, parts in again for m in b.arrived("a", parts, now)]
    assert np.array_equal(message.buffers[0].view(np.float64), np.arange(700_000.0))


def test_a_silent_peer_is_asked_ever_more_seldom() -> None:
    a, _ = pair()
    a.send("b", BODY, [np.zeros(1 << 20)])
    times, sent = [0.0], len(a.outgoing(0.0))
    while times[-1] < 60.0:
        now = a.deadline()
        assert now is not None
        assert now > times[-1]
        times.append(now)
        frames = a.outgoing(now)
        assert len(frames) <= 1
        sent += len(frames)
    gaps = np.diff(times)
    assert np.all(np.diff(gaps) >= -1e-9)
    assert gaps[0] == DEFAULT.retransmission_seconds
    assert gaps[-1] == pytest.approx(DEFAULT.most_retransmission_seconds)
    assert sent < 40


def test_nothing_to_do_means_no_deadline() -> None:
    a, _ = pair()
    a.open("b")
    assert a.deadline() is None
    a.send("b", BODY)
    assert a.deadline() == 0.0
    assert a.outgoing(5.0)
    assert a.deadline() == 5.0 + DEFAULT.retransmission_seconds


# Refused.


def forged(
    *,
    source: str = "a",
    target: str = "b",
    payload: bytes = b"",
    parts: Sequence[bytes | memoryview] = (),
    **given: int,
) -> Frames:
    """A frame with right checksums and whatever fields."""
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    fields = dict.fromkeys(Header._fields, 0) | {
        "magic": MAGIC,
        "source": mark_of(source, b""),
        "target": mark_of(target, b""),
        "ack": 1,
        "part_bytes": sum(map(len, parts)),
        "part_checksum": checksum,
    }
    return [header_part(tuple((fields | given).values()), payload), *parts]


def first_of(body: Any, sizes: Sequence[int] = (), behind: bytes = b"") -> Frames:
    """The first frame of a forged channel."""
    data = body if isinstance(body, bytes) else encode(body, sizes)
    return forged(sequence=1, number=1, envelope=len(data), payload=data + behind)


def test_forged_frame_is_taken_where_it_is_right() -> None:
    b = Channels("b", DEFAULT)
    assert b.arrived("a", first_of(BODY), 0.0) == [Message(BODY, [])]


REFUSED: dict[str, tuple[str, Callable[[], list[Any]]]] = {
    "nothing": ("damaged", list),
    "empty part": ("damaged", lambda: [b""]),
    "short": ("damaged", lambda: [bytes(HEADER_BYTES - 1)]),
    "too many parts": ("oversize", lambda: [*first_of(BODY), *[b""] * MOST_PARTS]),
    "a million parts": ("oversize", lambda: [b"x"] * 1_000_000),
    "long part": ("oversize", lambda: forged(parts=[bytes(1 << 20)])),
    "long header": ("oversize", lambda: forged(payload=bytes(1 << 20))),
    "another format": ("magic", lambda: forged(magic=MAGIC + 1)),
    "a part more": ("damaged", lambda: [*first_of(BODY), b"x"]),
    "an empty part more": ("", lambda: [*first_of(BODY), b""]),
    "a part less": ("damaged", lambda: forged(parts=[b"x"])[:1]),
    "another source": ("foreign", lambda: forged(source="c")),
    "another target": ("foreign", lambda: forged(target="c")),
    "acknowledges what was never sent": ("senseless", lambda: forged(ack=3)),
    "heard of what was never sent": ("senseless", lambda: forged(heard=1)),
    "too early": ("window", lambda: forged(sequence=1025, number=1, payload=b"x")),
    "no envelope": ("malformed", lambda: forged(sequence=1, number=1, payload=b"x")),
    "no payload": ("malformed", lambda: forged(sequence=1, number=1)),
    "huge envelope": ("malformed", lambda: forged(sequence=1, number=1, envelope=1 << 31)),
    "no message": ("malformed", lambda: first_of(b"\xc1")),
    "unknown message": ("malformed", lambda: first_of(msgpack.packb([99, []]))),
    "bytes behind the end": ("malformed", lambda: first_of(BODY, (), b"x")),
    "bytes behind the buffers": ("malformed", lambda: first_of(BODY, (2,), b"123")),
    "too many buffers": ("malformed", lambda: first_of(BODY, [0] * 70_000)),
    "too large a buffer": ("malformed", lambda: first_of(BODY, [5 << 30])),
}


@pytest.mark.parametrize(("reason", "make"), REFUSED.values(), ids=REFUSED)
def test_wrong_frame_is_counted_and_harms_nobody(
    reason: str, make: Callable[[], list[Any]]
) -> None:
    b = Channels("b", DEFAULT)
    messages = b.arrived("a", make(), 0.0)
    assert (sum(b.refused.values()), b.refused[reason], len(messages)) == (
        (1, 1, 0) if reason else (0, 0, 1)
    )
    assert ("a" in b.broken) == (reason == "malformed")
    other = Channels("other", DEFAULT)
    other.send("b", BODY)
    ((_, frames),) = other.outgoing(0.0)
    assert b.arrived("other", frames, 0.0) == [Message(BODY, [])]


def test_who_talks_nonsense_is_not_listened_to_any_more() -> None:
    b = Channels("b", DEFAULT)
    b.arrived("a", first_of(b"\xc1"), 0.0)
    assert "msgpack" in b.broken["a"]
    assert b.arrived("a", first_of(BODY), 0.0) == []
    assert b.refused == {"malformed": 1, "broken": 1}
    b.drop("a")
    assert not b.broken


def test_no_memory_for_a_message_is_told() -> None:
    b = Channels("b", replace(DEFAULT, message_bytes=1 << 48))
    b.arrived("a", first_of(BODY, [1 << 47], b"x"), 0.0)
    assert b.broken["a"].startswith("no memory for a buffer of 140,737,488,355,328 bytes")


def test_a_message_inside_another_is_refused() -> None:
    b = Channels("b", DEFAULT)
    b.arrived("a", first_of(BODY, [10], b"12345"), 0.0)
    data = encode(BODY)
    b.arrived("a", forged(sequence=2, number=2, envelope=len(data), payload=data), 0.0)
    assert "inside another" in b.broken["a"]


def test_a_dropped_peer_is_never_listened_to_again() -> None:
    a, b = pair()
    a.send("b", BODY)
    ((_, frames),) = a.outgoing(0.0)
    b.drop("a")
    b.open("a")
    assert b.arrived("a", frames, 0.0) == []
    assert b.refused == {"dropped": 1}
    b.send("a", BODY)
    assert (b.waiting_bytes("a"), b.outgoing(0.0), b.deadline()) == (0, [], None)


def test_peers_are_limited() -> None:
    b = Channels("b", replace(DEFAULT, peers=2))
    found = [b.arrived(x, forged(source=x, sequence=1, number=1), 0.0) for x in "acd"]
    assert found == [[], [], []]
    assert b.refused["peers"] == 1


def test_frames_of_another_session_are_foreign() -> None:
    a = Channels("a", DEFAULT, b"yesterday")
    a.send("b", BODY)
    ((_, frames),) = a.outgoing(0.0)
    today = Channels("b", DEFAULT, b"today")
    assert today.arrived("a", frames, 0.0) == []
    today.open("a")
    assert today.arrived("a", frames, 0.0) == []
    assert today.refused == {"foreign": 2}


@pytest.mark.parametrize(
    ("body", "buffers"),
    [
        (replace(BODY, op=-5), []),
        ({"verb": "run"}, []),
        (BODY, [np.zeros(5)] * 17),
        (BODY, [np.zeros(1000)]),
    ],
    ids=["field", "no message", "buffers", "bytes"],
)
def test_what_the_peer_would_refuse_cannot_be_sent(body: Any, buffers: list[Array]) -> None:
    a = Channels("a", replace(DEFAULT, message_bytes=4000, message_buffers=16))
    with pytest.raises(MalformedMessage):
        a.send("b", body, buffers)
    assert a.outgoing(0.0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_bytes": 0},
        {"frame_bytes": 2 << 20},
        {"frame_bytes": 100},
        {"ack_seconds": 0.3},
        {"retransmission_seconds": float("nan")},
    ],
    ids=str,
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(DEFAULT, **wrong)


# A bad network.


@dataclass
class Network:
    """Carries frames between endpoints, badly, in its own time; keeps a record of all."""

    ends: dict[str, Channels]
    rng: np.random.Generator
    loss: float = 0.1
    now: float = 0.0
    record: list[tuple[str, str, list[bytes]]] = field(default_factory=list)
    _queue: list[tuple[float, int, str, str, list[bytes]]] = field(default_factory=list)
    _count: int = 0

    def transmit(self, source: str) -> None:
        """Take what an endpoint has to transmit."""
        for target, frames in self.ends[source].outgoing(self.now):
            self.record.append((source, target, flat(frames)))
            while self.rng.random() < 0.1:
                self._carry(source, target, flat(frames))
            if self.rng.random() >= self.loss:
                self._carry(source, target, flat(frames))

    def _carry(self, source: str, target: str, frames: list[bytes]) -> None:
        if self.rng.random() < self.loss:
            frames = damaged(frames, self.rng)
        late = self.now + float(self.rng.exponential(0.005 if self.rng.random() < 0.9 else 0.5))
        self._count += 1
        heapq.heappush(self._queue, (late, self._count, source, target, frames))

    def step(self) -> list[tuple[str, str, Message]]:
        """Go to the next time at which something happens; what arrives then."""
        times = [end.deadline() for end in self.ends.values()]
        if self._queue:
            times.append(self._queue[0][0])
        self.now = max(self.now, min(t for t in times if t is not None))
        found = []
        while self._queue and self._queue[0][0] <= self.now:
            _, _, source, target, frames = heapq.heappop(self._queue)
            for message in self.ends[target].arrived(source, frames, self.now):
                found.append((source, target, message))
        for name in self.ends:
            self.transmit(name)
        return found


def damaged(frames: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """A frame with a changed bit, a part less, or cut off."""
    at = int(rng.integers(len(frames)))
    kind = rng.integers(3)
    if kind == 0:
        return frames[:at]
    part = bytearray(frames[at])
    if kind == 1:
        return [*frames[:at], bytes(part[: rng.integers(len(part))]), *frames[at + 1 :]]
    part[rng.integers(len(part))] ^= 1 << int(rng.integers(8))
    return [*frames[:at], bytes(part), *frames[at + 1 :]]


def messages_of(
    seed: int, count: int, most: int
) -> list[tuple[str, str, Any, list[Array], list[bytes]]]:
    """Messages between three endpoints, from none to several buffers, few of them large."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        source, target = rng.choice(["a", "b", "c"], 2, replace=False)
        sizes = np.minimum(most, rng.pareto(0.15, rng.integers(4))).astype(int)
        buffers: list[Array] = [rng.integers(256, size=n).astype(np.uint8) for n in sizes]
        body = Replied(1, 1, i, 0, [i, "x" * int(rng.integers(100))])
        found.append((str(source), str(target), body, buffers, [x.tobytes() for x in buffers]))
    return found


def run_badly(seed: int, settings: ChannelSettings, count: int, most: int) -> Network:
    """Everything sent over a bad network arrives once, in order, bit by bit."""
    ends = {name: Channels(name, settings) for name in ("a", "b", "c")}
    rng = np.random.default_rng([seed, 1])
    network = Network(ends, rng, loss=float(rng.uniform(0, 0.25)))
    plan = messages_of(seed, count, most)
    left = list(plan)
    arrived: dict[tuple[str, str], list[Any]] = {}
    while left or any(ends[x].waiting_bytes(y) for x in ends for y in ends):
        for source, target, body, buffers, _ in left[: int(rng.integers(1, 4))]:
            ends[source].send(target, body, buffers)
            left.pop(0)
        for source, target, (body, found) in network.step():
            arrived.setdefault((source, target), []).append((body, [x.tobytes() for x in found]))
        assert network.now < 3600
    expected: dict[tuple[str, str], list[Any]] = {}
    for source, target, body, _, contents in plan:
        expected.setdefault((source, target), []).append((body, contents))
    assert arrived == expected
    assert not any(end.broken for end in ends.values())
    return network


@pytest.mark.parametrize("seed", range(25))
def test_all_arrives_over_a_bad_network(seed: int) -> None:
    network = run_badly(seed, SMALL, count=40, most=20_000)
    refused = sum((end.refused for end in network.ends.values()), start=network.ends["a"].refused)
    assert refused.keys() <= {"damaged", "replayed", "oversize"}


@pytest.mark.parametrize("seed", range(2))
def test_large_messages_arrive_over_a_bad_network(seed: int) -> None:
    run_badly(seed, DEFAULT, count=20, most=4_000_000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_all_arrives_over_many_bad_networks(seed: int) -> None:
    for i in range(50):
        run_badly(seed * 1000 + i, SMALL, count=60, most=50_000)
    run_badly(seed, DEFAULT, count=40, most=20_000_000)


def test_replayed_frames_are_accepted_never() -> None:
    network = run_badly(5, replace(SMALL), count=40, most=20_000)
    order = network.rng.permutation(len(network.record))
    for i in [*order, *order[::-1]]:
        source, target, frames = network.record[i]
        assert network.ends[target].arrived(source, frames, network.now) == []
        assert network.ends[source].arrived(target, frames, network.now) == []
    assert not any(end.broken for end in network.ends.values())
    for end in network.ends.values():
        assert end.refused["replayed"] > 0
        assert end.refused["foreign"] > 0
        # What came again is answered, once, and that ends it.
        assert len(end.outgoing(network.now)) <= 2
        assert end.outgoing(network.now) == []


# Fuzz.


def fuzz(count: int, seed: int) -> None:
    """Random bytes, changed and forged frames: nothing false arrives, others are served."""
    rng = np.random.default_rng(seed)
    a, b = pair(SMALL)
    a.send("b", BODY, [np.arange(1000)])
    sound = [flat(frames) for _, frames in a.outgoing(0.0)]
    assert len(sound) > 2
    for i in range(count):
        frames = list(sound[rng.integers(len(sound))])
        match i % 3:
            case 0:
                frames = damaged(frames, rng)
            case 1:
                frames = [rng.bytes(int(rng.integers(200))) for _ in range(rng.integers(4))]
            case 2:
                frames = forged_randomly(frames, rng)
        hostile = f"hostile{i // 100}"
        assert b.arrived("a" if i % 3 == 0 else hostile, frames, 0.0) == []
        if i % 100 == 99:
            b.drop(hostile)
    assert not b.broken
    assert sum(b.refused.values()) > 0.99 * count
    own = Channels("own", SMALL)
    own.send("b", BODY)
    ((_, frames_of_own),) = own.outgoing(0.0)
    assert b.arrived("own", frames_of_own, 0.0) == [Message(BODY, [])]
    (message,) = [m for frames in sound for m in b.arrived("a", frames, 0.0)]
    assert message.buffers[0].tobytes() == np.arange(1000).tobytes()


def forged_randomly(frames: list[bytes], rng: np.random.Generator) -> list[Any]:
    """A frame whose fields are changed, with right checksums again."""
    header, pieces = read_frame(frames, SMALL.frame_bytes)
    name = Header._fields[rng.integers(len(Header._fields) - 2)]
    changed = header._replace(**{name: int(rng.integers(1 << 16))})
    return [header_part(changed, b"".join(pieces)), *frames[1:]]


def test_random_frames_are_refused() -> None:
    fuzz(20_000, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_random_frames_are_refused(seed: int) -> None:
    fuzz(100_000, seed)


def test_ping_has_no_fields() -> None:
    assert sent_over(*pair(), Ping()) == [Message(Ping(), [])]
