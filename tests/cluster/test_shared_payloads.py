"""Large messages through memory that both ends map: as by frames, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scalops.engine.cluster import shared_payloads
from scalops.engine.cluster.channel import Channels, ChannelSettings, Message
from scalops.engine.cluster.messages import Mapped, Taken, encode
from scalops.engine.cluster.shared_payloads import LEAST_BYTES, SharedChannels
from scalops.engine.columns import Array
from tests.cluster.echo import asking

SETTINGS = ChannelSettings(message_bytes=1 << 24)


@pytest.fixture
def ends() -> tuple[SharedChannels, SharedChannels]:
    """Two ends, "a" and "b", which share."""
    return (
        SharedChannels("a", SETTINGS, everybody=True),
        SharedChannels("b", SETTINGS, everybody=True),
    )


def passed(sender: Channels, receiver: Channels, own: str, to: str) -> list[Message]:
    """What one end has to transmit arrives at the other."""
    found: list[Message] = []
    for peer, frames in sender.outgoing(0.0):
        assert peer == to
        found += receiver.arrived(own, frames, 0.0)
    return found


def numbers(size: int, seed: int = 1) -> Array:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def open_segments() -> int:
    """Segments of which this process has files."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd") / name
        if os.path.islink(path) and os.readlink(path).startswith("/memfd:scalops-payload"):
            found.add(os.stat(path).st_ino)
    return len(found)


def test_large_messages_arrive_in_order_with_small_ones(
    ends: tuple[SharedChannels, SharedChannels],
) -> None:
    a, b = ends
    large = [numbers(LEAST_BYTES), np.zeros(0, np.uint8), numbers(77)]
    a.send("b", asking("first"), [numbers(5)])
    a.send("b", asking("second"), large)
    a.send("b", asking("third"))
    expected = [x.copy() for x in large]
    large[0][:] = 0  # has been copied
    messages = passed(a, b, "a", "b")
    assert [m.body.piece[0] for m in messages] == ["first", "second", "third"]
    found = messages[1].buffers
    assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]
    assert all(x.flags.writeable for x in found)
    assert found[0].ctypes.data % 64 == 0


def test_columns_that_do_not_lie_together_are_copied_as_bytes(
    ends: tuple[SharedChannels, SharedChannels],
) -> None:
    a, b = ends
    column = np.arange(1 << 17, dtype=np.float64).reshape(-1, 2)[:, 0]
    a.send("b", asking("echo"), [column])
    (message,) = passed(a, b, "a", "b")
    assert message.buffers[0].view(np.float64).tolist() == column.tolist()


def test_a_segment_serves_the_next_message_once_it_has_been_read(
    ends: tuple[SharedChannels, SharedChannels],
) -> None:
    a, b = ends
    before = open_segments()
    for seed in range(5):
        data = numbers(300_000, seed)
        a.send("b", asking("echo"), [data])
        assert a.waiting_bytes("b") > 300_000
        (message,) = passed(a, b, "a", "b")
        assert message.buffers[0].tobytes() == data.tobytes()
        assert passed(b, a, "b", "a") == []  # says that it has been read
        assert passed(a, b, "a", "b") == []
        assert a.waiting_bytes("b") == 0
    assert open_segments() == before + 1
    a.send("b", asking("echo"), [numbers(300_000)])
    a.send("b", asking("echo"), [numbers(300_000)])
    assert open_segments() == before + 2


def test_what_waits_for_a_peer_that_is_dropped_is_given_back(
    ends: tuple[SharedChannels, SharedChannels],
) -> None:
    a, _ = ends
    before = open_segments()
    a.send("b", asking("echo"), [numbers(300_000)])
    a.drop("b")
    a.send("b", asking("echo"), [numbers(300_000)])
    assert open_segments() == before
    assert a.waiting_bytes("b") == 0


def test_idle_segments_are_bounded(
    ends: tuple[SharedChannels, SharedChannels], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = ends
    monkeypatch.setattr(shared_payloads, "MOST_IDLE_BYTES", 1_000_000)
    monkeypatch.setattr(shared_payloads, "MOST_MAPPED", 1)
    before = open_segments()
    for _ in range(5):
        a.send("b", asking("echo"), [numbers(300_000)])
    assert open_segments() == before + 5
    assert len(passed(a, b, "a", "b")) == 5
    passed(b, a, "b", "a")
    assert open_segments() == before + 3


def test_frames_serve_where_there_are_many_segments(
    ends: tuple[SharedChannels, SharedChannels], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = ends
    monkeypatch.setattr(shared_payloads, "MOST_SEGMENTS", 2)
    before = open_segments()
    sizes = [200_000, 300_000, 400_000, 500_000]
    for size in sizes:
        a.send("b", asking("echo"), [numbers(size)])
    assert open_segments() == before + 2
    assert [len(m.buffers[0]) for m in passed(a, b, "a", "b")] == [
        200_000,
        300_000,
        400_000,
        500_000,
    ]
    passed(b, a, "b", "a")
    a.send("b", asking("echo"), [numbers(4_000_000)])  # in place of one that is idle
    assert open_segments() == before + 3  # the other end has the first two
    a.drop("b")
    b.drop("a")
    assert open_segments() == before + 1


def test_frames_serve_where_there_is_no_memory_to_share(
    ends: tuple[SharedChannels, SharedChannels], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = ends

    def refuses(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    before = open_segments()
    data = numbers(300_000)
    a.send("b", asking("echo"), [data])
    (message,) = passed(a, b, "a", "b")
    assert message.buffers[0].tobytes() == data.tobytes()
    assert open_segments() == before


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("a file", "is no memory to be shared"),
        ("shrinks", "is memory that may shrink"),
        ("another process", "memory of process 1, not of"),
        ("too short", "bytes in a segment of"),
        ("closed", "No such file"),
        ("nonsense", "not msgpack"),
        ("too much", "are allowed"),
    ],
)
def test_what_is_no_segment_breaks_the_channel(kind: str, why: str, tmp_path: Path) -> None:
    sender, receiver = Channels("a", SETTINGS), SharedChannels("b", SETTINGS)
    receiver.share("a", os.getpid())
    process, message = os.getpid(), encode(asking("echo"), [4096 * 16])
    file = os.memfd_create("scalops-payload", os.MFD_ALLOW_SEALING)
    match kind:
        case "a file":
            os.close(file)
            file = os.open(tmp_path, os.O_RDONLY)
        case "another process":
            process = 1
        case "too short":
            os.close(file)
            segment = shared_payloads.Segment(1, 4096)
            file = os.dup(segment.file)
        case "closed":
            os.close(file)
        case "nonsense":
            message = b"\xc1"
        case "too much":
            message = encode(asking("echo"), [1 << 30])
    sender.send("b", Mapped(process, file, 1, message))
    assert passed(sender, receiver, "a", "b") == []
    assert why in receiver.broken["a"]
    if kind != "closed":
        os.close(file)


def test_a_segment_that_was_not_sent_is_not_taken_back(
    ends: tuple[SharedChannels, SharedChannels],
) -> None:
    a, b = ends
    b.send("a", Taken(7))
    assert passed(b, a, "b", "a") == []
    assert a.refused["senseless"] == 1


def test_memory_of_a_peer_that_shares_nothing_is_not_mapped() -> None:
    sender = SharedChannels("a", SETTINGS, everybody=True)
    receiver = SharedChannels("b", SETTINGS)
    sender.send("b", asking("echo"), [numbers(300_000)])
    assert passed(sender, receiver, "a", "b") == []
    assert "nobody expects" in receiver.broken["a"]
