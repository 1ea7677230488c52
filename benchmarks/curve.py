"""What encryption costs between two hosts of a cluster: CURVE on and off, over TCP on 127.0.0.1.

    python -m benchmarks.curve [--megabytes M] [--pings K] [--rounds K]

Two processes with the cluster's channels and socket options: one streams messages of 1 MiB, as an
exchange does, the other says when all have come; then small messages there and back. Without CURVE
the sockets are opened by hand: the cluster refuses TCP without keys.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import zmq

from benchmarks.measure import interleaved, report
from scalops.engine.cluster import security
from scalops.engine.cluster.channel import Channels, ChannelSettings, Message
from scalops.engine.cluster.keys import KeyPair, new_pair
from scalops.engine.cluster.messages import Data, Shutdown, Streamed, StreamEnd
from scalops.engine.cluster.worker_sockets import received, transmit

NEAR, FAR = "near", "far"
PIECE_BYTES = 1 << 20
PLACE = {"job": 1, "epoch": 1, "op": 1, "rank": 0, "to": 1}


class End:
    """One end of a connection; `before` is what a ROUTER puts in front of frames."""

    def __init__(self, own: str, peer: str, socket: Any, before: list[bytes]) -> None:
        self._socket, self._before, self._peer = socket, before, peer
        self._channels = Channels(own, ChannelSettings(), b"token")

    def send(self, body: Any, buffers: Any = ()) -> None:
        """Queue a message."""
        self._channels.send(self._peer, body, buffers)

    def pump(self) -> list[Message]:
        """Send what is to be sent, and wait for something."""
        self._transmit()
        deadline = self._channels.deadline()
        wait = None if deadline is None else max(0, ceil((deadline - monotonic()) * 1e3))
        self._socket.poll(wait)
        found = []
        for frames in received(self._socket, self._channels.refused):
            found += self._channels.arrived(self._peer, frames[len(self._before) :], monotonic())
        self._transmit()
        return found

    def _transmit(self) -> None:
        for _, frames in self._channels.outgoing(monotonic()):
            transmit(self._socket, [*self._before, *frames])

    def until(self, kind: type) -> Message:
        """The next message of a class."""
        while True:
            for message in self.pump():
                if isinstance(message.body, kind):
                    return message


def serve(address: str, pair: KeyPair | None, server: bytes | None) -> None:
    """The far process: answers what ends a stream, and small messages."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set_hwm(0)
        socket.setsockopt(zmq.IDENTITY, FAR.encode())
        if pair is None:
            security.limited(socket).connect(address)
        else:
            security.connect(socket, address, pair, server)
        end = End(FAR, NEAR, socket, [])
        end.send(StreamEnd(**PLACE, turn=0))  # it is there
        while True:
            for message in end.pump():
                match message.body:
                    case StreamEnd() | Data() as body:
                        end.send(body)
                    case Shutdown():
                        return


@contextmanager
def connected(with_curve: bool) -> Iterator[End]:
    """A connection to a far process."""
    with ExitStack() as ends:
        context = ends.enter_context(zmq.Context())
        socket = ends.enter_context(context.socket(zmq.ROUTER))
        socket.set_hwm(0)
        far = server = None
        if with_curve:
            pair, far = new_pair(), new_pair()
            zap = security.Authenticator(context, {security.DATA: lambda key: key == far.public})
            ends.callback(zap.stop)
            address = security.bind(socket, "tcp://127.0.0.1:*", pair, security.DATA, zap)
            server = pair.public
        else:
            security.limited(socket).bind("tcp://127.0.0.1:*")
            address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        spawned = multiprocessing.get_context("spawn")
        process = spawned.Process(target=serve, args=(address, far, server))
        process.start()
        ends.callback(process.join)
        end = End(NEAR, FAR, socket, [FAR.encode()])
        end.until(StreamEnd)
        yield end
        end.send(Shutdown("it is measured"))
        while process.is_alive() and end._channels.waiting_bytes(FAR):
            end.pump()


def streamed(end: End, pieces: list[Any]) -> float:
    """Seconds until all pieces have come."""
    begin = perf_counter()
    for piece in pieces:
        end.send(Streamed(**PLACE, turn=1, piece=None), [piece])
    end.send(StreamEnd(**PLACE, turn=1))
    end.until(StreamEnd)
    return perf_counter() - begin


def one_way(end: End, pings: int) -> list[float]:
    """Seconds of a small message one way: half of there and back."""
    seconds = []
    for i in range(pings):
        begin = perf_counter()
        end.send(Data(**PLACE, piece=i))
        end.until(Data)
        seconds.append((perf_counter() - begin) / 2)
    return seconds


def main(arguments: list[str] | None = None) -> float:
    """Run and print; throughput with CURVE as a ratio to that without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--pings", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    random = np.random.default_rng(2)
    pieces = [random.integers(0, 256, PIECE_BYTES, np.uint8) for _ in range(given.megabytes)]
    with connected(True) as curve, connected(False) as plain:
        both = {"CURVE": curve, "no CURVE": plain}
        ways = {n: lambda e=e: [streamed(e, pieces) for _ in range(3)] for n, e in both.items()}
        timings = interleaved(ways, given.rounds)
        title = f"{given.megabytes} messages of 1 MiB over TCP"
        slower = report(title, timings, "CURVE", "no CURVE")
        for t in timings:
            speed = given.megabytes * PIECE_BYTES / t.seconds / 1e6
            print(f"  {t.name:<28} {speed:10.0f} MB/s")
        ways = {n: lambda e=e: one_way(e, given.pings) for n, e in both.items()}
        pinged = interleaved(ways, given.rounds)
        report("a small message over TCP, one way", pinged, "CURVE", "no CURVE", 1e-6)
        added = (pinged[0].seconds - pinged[1].seconds) * 1e6
        print(f"  added by CURVE: {added:.1f} us")
    return 1 / slower


if __name__ == "__main__":
    main()
