"""What a host of workers asks its cluster: whether it is there, and knows them."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import zmq

from scalops.engine.cluster import security
from scalops.engine.cluster.broker_link import dealer, received
from scalops.engine.cluster.keys import KeyPair
from scalops.engine.cluster.relay import HERE, PULSE
from scalops.engine.cluster.security import Socket


class ClusterWatch:
    """Signs of life to and from a broker, for workers that may be too busy to give any."""

    def __init__(self, uri: str, pair: KeyPair | None, now: float) -> None:
        """Raises: SecurityError, ConfigError."""
        self._own = f"host-{secrets.token_hex(8)}"
        self._context: zmq.Context[Socket] = zmq.Context()
        self._socket = dealer(self._context)
        self.heard = now  # when the cluster has answered last
        self.known = 0  # workers that it knows, of those that were asked for last
        try:
            security.connect(self._socket, uri, pair, pair.cluster if pair else None)
        except BaseException:
            self.close()
            raise

    def ask(self, workers: Sequence[str]) -> None:
        """Say that these workers live, if the cluster knows them."""
        self.known = 0
        for name in (self._own, *workers):
            with suppress(zmq.ZMQError):  # nobody is there: that shows in `heard`
                self._socket.send_multipart([name.encode("ascii"), PULSE], zmq.NOBLOCK)

    def take(self, now: float) -> None:
        """Take the answers that are there."""
        for frames in received(self._socket, Counter()):
            self.heard = now
            self.known += [frame.bytes for frame in frames] == [PULSE, HERE]

    def close(self) -> None:
        self._context.destroy(linger=0)
