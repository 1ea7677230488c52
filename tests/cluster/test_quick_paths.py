"""What keeps an iteration over workers short: values as data, one encoding for all, few waits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from scalops.engine.cluster.channel import Channels, ChannelSettings
from scalops.engine.cluster.interrupts import Interrupts
from scalops.engine.cluster.messages import Command, MalformedMessage, decode, encode
from scalops.engine.cluster.shared_payloads import LEAST_BYTES, SharedChannels
from scalops.engine.cluster.verbs import numbers_of
from scalops.engine.cluster.worker_sockets import Waits
from scalops.engine.columns import Array
from scalops.engine.value_codec import decode_value


@pytest.mark.parametrize(
    "value",
    [
        np.float64("nan"),
        np.float64(-0.0),
        np.float32(1.5),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 4), np.int32),
        np.arange(5_000.0),
        np.array([True, False]),
    ],
    ids=lambda v: f"{v.dtype}-{v.shape}-{v.flags.c_contiguous}",
)
def test_numbers_arrive_bit_by_bit(value: Any) -> None:
    buffers: list[Array] = []
    values = numbers_of([np.int64(1), value], buffers)
    body = decode(encode(Command(1, 1, 1, "fold", [0], (3, 4), False, values)))
    _, found = decode_value(body.values, [b.view(np.uint8).reshape(-1) for b in buffers])
    assert type(found) is type(value)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert found.tobytes() == value.tobytes()
    assert np.asarray(found).flags.c_contiguous == np.asarray(value).flags.c_contiguous


@pytest.mark.parametrize(
    "value",
    [None, 1, 1.5, "text", (1, 2), np.array(["a"]), np.array([None]), np.array([1j])],
    ids=lambda v: f"{type(v).__name__}-{getattr(v, 'dtype', '')}",
)
def test_what_is_no_number_is_pickled(value: Any) -> None:
    assert numbers_of([np.float64(1), value], []) is None


BODY = Command(1, 1, 1, "fold", [0], (), False)


@pytest.mark.parametrize("size", [0, 100, LEAST_BYTES])
def test_one_message_goes_to_all(size: int) -> None:
    sender = SharedChannels("a", ChannelSettings(), everybody=True)
    others = {name: SharedChannels(name, ChannelSettings(), everybody=True) for name in "bcd"}
    sender.drop("d")
    array = np.random.default_rng(size).integers(256, size=size).astype(np.uint8)
    sender.send_all(["b", "c", "d"], BODY, [array])
    found = [
        (peer, message)
        for peer, frames in sender.outgoing(0.0)
        for message in others[peer].arrived("a", frames, 0.0)
    ]
    assert [peer for peer, _ in found] == ["b", "c"]
    for _, message in found:
        assert message.body == BODY
        assert np.array_equal(message.buffers[0], array)


def test_what_is_no_message_goes_to_nobody() -> None:
    sender = Channels("a", ChannelSettings())
    with pytest.raises(MalformedMessage, match=r"Command\.op"):
        sender.send_all(["b", "c"], Command(1, 1, -1, "fold", None, (), False))
    assert sender.outgoing(0.0) == []


@pytest.fixture
def sockets() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind("inproc://pair")
        b.connect("inproc://pair")
        yield a, b


def test_messages_that_are_there_already_are_found(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    a, b = sockets
    waits = Waits()
    waits.watch(b)
    assert waits.ready(0.0) == set()
    a.send(b"1")
    a.send(b"2")
    for expected in (b"1", b"2"):
        assert waits.ready(None) == {b}
        assert b.recv(zmq.NOBLOCK) == expected
    a.send(b"3")
    # To use the socket for something else takes from its file what tells of the message.
    b.send(b"4")
    assert waits.ready(None) == {b}


def test_files_are_found_beside_messages(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    a, b = sockets
    file = os.eventfd(1, os.EFD_NONBLOCK)
    try:
        waits = Waits()
        waits.watch(b)
        waits.watch(file)
        assert waits.ready(None) == {file}
        a.send(b"1")
        assert waits.ready(None) == {b, file}
        waits.forget(file)
        assert waits.ready(None) == {b}
    finally:
        os.close(file)


def test_the_handler_before_is_heard_between_blocks_and_comes_back() -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append("before"))
    own = signal.getsignal(signal.SIGINT)
    try:
        interrupts = Interrupts(lambda: heard.append("woken"))
        with interrupts:
            pass
        signal.raise_signal(signal.SIGINT)
        assert heard == ["before"]
        with interrupts:
            signal.raise_signal(signal.SIGINT)
            assert heard == ["before", "woken"]
        assert heard == ["before", "woken", "before"]
        with interrupts.last():
            pass
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_the_program_sets_meanwhile_counts() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupts = Interrupts(lambda: heard.append("woken"))
        with interrupts:
            pass
        signal.signal(signal.SIGINT, lambda number, frame: heard.append("new"))
        new = signal.getsignal(signal.SIGINT)
        with interrupts:
            signal.raise_signal(signal.SIGINT)
            assert heard == ["woken"]
        assert heard == ["woken", "new"]
        with interrupts.last():
            pass
        assert signal.getsignal(signal.SIGINT) is new
    finally:
        signal.signal(signal.SIGINT, before)
