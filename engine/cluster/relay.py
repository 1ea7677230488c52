"""The broker's sockets and channels: whom a message is from, for whom it is, where that is.

Every message of a peer is its name, whom it is for, and the frames of a channel: for the broker
("") they are read here, for others they pass unopened. "?" asks for a sign of life. A name belongs
to the key that came with it first.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import zmq

from scalops.algebra.errors import ConfigError
from scalops.engine.cluster import security
from scalops.engine.cluster.channel import Channels, ChannelSettings
from scalops.engine.cluster.death_places import told_places
from scalops.engine.cluster.keys import AuthorizedKeys, KeyPair
from scalops.engine.cluster.membership import (
    LEASE,
    TURNOVER,
    Action,
    End,
    Event,
    Forget,
    Gone,
    Membership,
    Said,
    Tell,
    Tick,
)
from scalops.engine.cluster.messages import Refused
from scalops.engine.cluster.security import Authenticator, Socket, receive, sender_key
from scalops.engine.progress import Place

BROKER, PULSE = "broker", b"?"
HERE, GONE = b"here", b"gone"  # what a pulse is answered
REVOKED = "its key was revoked"
_NAME = re.compile(rb"[0-9a-zA-Z_.-]{1,64}")
_TURN = 256  # messages that are read before something else is done
_LAST_WORDS = 2.0  # seconds for what has been told to arrive
# Of channels to the broker: what is said there is short.
CHANNEL = ChannelSettings(
    window_bytes=4 << 20, window_frames=256, message_bytes=4 << 20, message_buffers=1
)


@dataclass
class _Route:
    """The way to a peer."""

    identity: bytes
    key: bytes
    leaves: float | None = None  # it is listened to no more, and forgotten then


class Relay:
    """Serves workers and drivers; one thread turns it."""

    def __init__(
        self,
        address: str,
        pair: KeyPair | None,
        keys: Path | None,
        *,
        lease: float = LEASE,
        turnover: float = TURNOVER,
        channel: ChannelSettings = CHANNEL,
    ) -> None:
        """`keys` is the folder of the keys that are let in, needed over TCP.

        Raises: SecurityError, ConfigError.
        """
        self.refused: Counter[str] = Counter()  # what has been turned away, by reason
        self.ended: str | None = None  # why, once it is to end
        self._context: zmq.Context[Socket] = zmq.Context()
        self._zap: Authenticator | None = None
        self._keys = None if keys is None else AuthorizedKeys(keys)
        self._roles: Mapping[bytes, str] = {}
        self._routes: dict[str, _Route] = {}
        self._channels = Channels(BROKER, channel)
        self._most = channel.peers
        try:
            self.address = self._bind(address, pair)
        except BaseException:
            self.close()
            raise
        self.membership = Membership(
            self.address, lambda: secrets.token_hex(16), lease=lease, turnover=turnover
        )
        self._tick_seconds = min(1.0, lease / 8)
        self._tick_at = monotonic()

    def _bind(self, address: str, pair: KeyPair | None) -> str:
        is_tcp = security.require_transport(address, pair) == "tcp"
        if is_tcp and self._keys is None:
            raise ConfigError(f"{address} over TCP needs a folder of the keys that are let in")
        if is_tcp:
            # The thread has a reader of its own: one thread fills each's memory of the files.
            assert self._keys is not None
            admitted = AuthorizedKeys(self._keys.folder.parent)
            self._zap = Authenticator(
                self._context, {security.CONTROL: lambda key: admitted.role(key) is not None}
            )
            self._roles = self._keys.roles()
        else:
            self._keys = None
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.set_hwm(0)  # channels bound what is under way
        return security.bind(self.socket, address, pair, security.CONTROL, self._zap)

    def close(self) -> None:
        """Close all at once."""
        if self._zap is not None:
            self._zap.stop()
        self._context.destroy(linger=0)

    # One turn.

    def seconds(self) -> float:
        """How long nothing has to be done unless something comes."""
        deadline = self._channels.deadline()
        at = self._tick_at if deadline is None else min(deadline, self._tick_at)
        return max(0.0, at - monotonic())

    def turn(self) -> None:
        """Do what is to be done now. Raises SecurityError where keys are checked no more."""
        now = monotonic()
        for _ in range(_TURN):
            try:
                frames = receive(self.socket)
            except zmq.Again:
                break
            self._take(frames, now)
        if now >= self._tick_at:
            self._tick(now)
        self._transmit(now)

    def stop(self, reason: str) -> None:
        """Tell everybody that the cluster ends; `ended` is set."""
        self._do(self.membership.stop(reason))
        self._transmit(monotonic())

    def note_end(self, peer: str, reason: str, places: Sequence[Place] = ()) -> None:
        """A worker's process has ended, its threads at `places`, and another one is started."""
        self._handle(Gone(peer, reason, replaced=True, places=told_places(places)), monotonic())

    def has_words_left(self) -> bool:
        """Whether something that was told has not arrived."""
        return any(self._channels.waiting_bytes(peer) for peer in self._routes)

    def _take(self, frames: list[zmq.Frame] | None, now: float) -> None:
        if frames is None or len(frames) < 3:
            self.refused["parts"] += 1
            return
        key = sender_key(frames[0])
        if self._keys is not None and key not in self._roles and not self._is_new_key(key):
            self.refused["key"] += 1
            return
        sender = frames[1].bytes
        if not _NAME.fullmatch(sender):
            self.refused["name"] += 1
            return
        peer, to, identity = sender.decode("ascii"), frames[2].bytes, frames[0].bytes
        if to == PULSE:
            self._answer_pulse(peer, identity, key, now)
            return
        route = self._route(peer, identity, key)
        if route is None:
            return
        if route.leaves is None:
            self.membership.heard(peer, now)
        if to == b"":
            self._read(peer, route, frames[3:], now)
        else:
            self._pass_on(peer, to, frames[3:])

    def _is_new_key(self, key: bytes) -> bool:
        """Whether a key was let in since the last tick."""
        assert self._keys is not None
        self._roles = self._keys.roles()
        return key in self._roles

    def _route(self, peer: str, identity: bytes, key: bytes) -> _Route | None:
        """The way back to a peer; None where another has its name, or it is gone."""
        route = self._routes.get(peer)
        if route is None:
            if self.membership.lost(peer) is not None:
                self._send(identity, [PULSE, GONE])
                return None
            if len(self._routes) >= self._most:
                self.refused["peers"] += 1
                return None
            route = self._routes[peer] = _Route(identity, key)
        if route.key != key:
            self.refused["another's name"] += 1
            return None
        route.identity = identity  # it may have connected anew
        return route

    def _read(self, peer: str, route: _Route, frames: list[zmq.Frame], now: float) -> None:
        parts = [frame.buffer for frame in frames]
        for message in self._channels.arrived(peer, parts, now):
            role = self._roles.get(route.key) if self._keys is not None else None
            if self._keys is None or role is not None:
                self._handle(Said(peer, route.key, role, message.body), now)
        if peer in self._channels.broken:
            self._handle(Gone(peer, f"it talks nonsense: {self._channels.broken[peer]}"), now)

    def _answer_pulse(self, peer: str, identity: bytes, key: bytes, now: float) -> None:
        """Over whichever connection it came: a driver's pulse has one of its own."""
        route = self._routes.get(peer)
        if route is not None and route.key == key and self.membership.knows(peer):
            self.membership.heard(peer, now)
            self._send(identity, [PULSE, HERE])
        else:
            self._send(identity, [PULSE, GONE])

    def _pass_on(self, peer: str, to: bytes, frames: Sequence[zmq.Frame]) -> None:
        found = self.membership.route(peer, to.decode("ascii", "replace"))
        route = None if found is None else self._routes.get(found[0])
        if found is None or route is None:
            self.refused["nobody's"] += 1
            return
        self._send(route.identity, [found[1].encode(), *frames])

    def _send(self, identity: bytes, frames: Sequence[Any]) -> None:
        try:
            self.socket.send_multipart([identity, *frames], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:  # it is not connected; channels send again
            self.refused["not sent"] += 1

    def _tick(self, now: float) -> None:
        self._tick_at = now + self._tick_seconds
        if self._zap is not None:
            self._zap.require_alive()
        if self._keys is not None:
            self._roles = self._keys.roles()
            revoked = [
                p for p, r in self._routes.items() if r.leaves is None and r.key not in self._roles
            ]
            for peer in revoked:
                self._channels.send(peer, Refused(REVOKED))
                self._handle(Gone(peer, REVOKED), now)
        self._handle(Tick(), now)
        for peer, route in list(self._routes.items()):
            done = not self._channels.waiting_bytes(peer) or (route.leaves or 0.0) <= now
            if route.leaves is not None and done:
                self._channels.drop(peer)
                del self._routes[peer]

    def _transmit(self, now: float) -> None:
        for peer, frames in self._channels.outgoing(now):
            if peer in self._routes:
                self._send(self._routes[peer].identity, [b"", *frames])

    # What the state machine wants.

    def _handle(self, event: Event, now: float) -> None:
        self._do(self.membership.handle(event, now))

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Tell(peer, body):
                    if peer in self._routes:
                        self._channels.send(peer, body)
                case Forget(peer):
                    if peer in self._routes:
                        self._routes[peer].leaves = monotonic() + _LAST_WORDS
                case End(reason):
                    self.ended = reason
