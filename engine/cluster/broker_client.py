"""One question to a broker, and its answer: what the command line needs."""

from __future__ import annotations

import secrets
from collections import Counter
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import zmq

from scalops.algebra.errors import ConfigError
from scalops.engine.cluster import security
from scalops.engine.cluster.broker_link import BrokerLink, dealer
from scalops.engine.cluster.keys import read_secret
from scalops.engine.cluster.messages import Refused, Status, StatusIs
from scalops.engine.cluster.security import Socket

SECONDS = 10.0  # that a broker may take
T = TypeVar("T")


def ask(uri: str, key_file: str | None, body: Any, answer: type[T], seconds: float = SECONDS) -> T:
    """The broker's answer, a message of class `answer`. Raises ConfigError, SecurityError."""
    found = _exchange(uri, key_file, body, answer, seconds)
    assert isinstance(found, answer)
    return found


def tell(uri: str, key_file: str | None, body: Any, seconds: float = SECONDS) -> None:
    """Have the broker hear something. Raises ConfigError, SecurityError."""
    _exchange(uri, key_file, body, None, seconds)


def rows(uri: str, key_file: str | None, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """The workers of a cluster: worker, host, partitions, cached_bytes, last_seen (seconds ago),
    serves (a driver's name, or "").

    Raises: ConfigError, SecurityError.
    """
    return list(ask(uri, key_file, Status(), StatusIs, seconds).rows)


def _exchange(
    uri: str, key_file: str | None, body: Any, answer: type[Any] | None, seconds: float
) -> Any:
    """The answer, or None once `body` has been heard where no answer is wanted."""
    pair = None if key_file is None else read_secret(Path(key_file))
    security.require_welcome(uri, pair, key_file, seconds)
    context: zmq.Context[Socket] = zmq.Context()
    try:
        socket = dealer(context)
        security.connect(socket, uri, pair, pair.cluster if pair else None)
        link = BrokerLink(f"asks-{secrets.token_hex(8)}", socket, Counter())
        link.say(body)
        until = monotonic() + seconds
        while True:
            link.flush(monotonic())
            if answer is None and not link.has_words_left():
                return None
            deadline = link.deadline()
            at = until if deadline is None else min(until, deadline)
            socket.poll(max(0, ceil((at - monotonic()) * 1e3)))
            for _ in link.take(monotonic()):
                pass  # nobody has anything else to say here
            for told in link.told:
                if isinstance(told, Refused):
                    raise ConfigError(f"the cluster at {uri} refuses this: {told.reason}")
                if answer is not None and isinstance(told, answer):
                    link.flush(monotonic())
                    return told
            if monotonic() >= until:
                raise ConfigError(
                    f"no cluster answers at {uri} within {seconds:g} s",
                    hint="scalops cluster status, on its host, tells whether it runs",
                )
    finally:
        context.destroy(linger=100)
