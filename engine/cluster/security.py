"""Sockets that strangers cannot talk to.

On one host sockets are files in a folder that their owner alone may enter, with a filter of user
ids. Over TCP there is nothing without CURVE keys, and no server without somebody who looks at the
keys of clients. By itself libzmq lets in *any* key where no ZAP domain is set, and, unless told to
enforce it, where nobody answers for the domain; pyzmq's authenticator gives the domain "*" to
sockets without a domain only, and its thread may end unnoticed. So servers have a domain that is
enforced, `Authenticator` answers for named domains alone and tells when it cannot go on, and a
server proves by `self_test` that it refuses a random key before it reads its first message.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from scalops.algebra.errors import ConfigError, SecurityError
from scalops.engine.cluster.keys import BROKER, SECRET, KeyPair, new_pair, private_folder

CONTROL, DATA = "scalops.control", "scalops.data"  # the domains
MAX_FRAME = 2 << 20  # bytes; data frames have 1 MiB and a header
MAX_PARTS = 64  # of a message
HANDSHAKE_SECONDS = 10.0
HOLD_SECONDS = 5.0  # that a client may wait until its key is let in
SELF_TEST_SECONDS = 10.0
_MOST_WAITING = 1024
_ZAP = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"

Socket: TypeAlias = "zmq.Socket[bytes]"
Admits: TypeAlias = Callable[[bytes], bool | None]


class Authenticator:
    """Answers, in a thread, whether clients of a context's servers are let in.

    `admits` has a function for each domain: from a public key (Z85) to whether it is let in. None
    is "not yet": the client waits until `look_again` (one that is refused would never come again).
    It is called on the thread. Whatever is no CURVE handshake of these domains is refused.
    """

    def __init__(self, context: zmq.Context[Socket], admits: Mapping[str, Admits]) -> None:
        self._context, self._admits = context, dict(admits)
        self._heard, self._told = os.pipe()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._waiting: list[tuple[float, list[bytes]]] = []
        self._stopped = False
        self.refused = 0  # handshakes so far
        self._thread = threading.Thread(target=self._run, name="scalops-zap", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            failure = self._failure
            self.stop()
            raise SecurityError(f"keys cannot be checked: {failure}") from failure

    def require_alive(self) -> None:
        """Raises SecurityError where the thread has ended: whoever serves has to stop."""
        if not self._thread.is_alive():
            raise SecurityError(f"nobody checks keys any more: {self._failure or 'it was stopped'}")

    def look_again(self) -> None:
        """Those who wait may be let in now."""
        if not self._stopped:
            os.write(self._told, b".")

    def stop(self) -> None:
        """End the thread; from now on nobody is let in. May be called again."""
        if not self._stopped:
            self._stopped = True
            os.write(self._told, b".")
            self._thread.join()
            os.close(self._told)
            os.close(self._heard)

    def _run(self) -> None:
        try:
            # No REP socket: those who wait must not hold up the others.
            with self._context.socket(zmq.ROUTER) as socket:
                socket.linger = 0
                socket.bind(_ZAP)
                self._ready.set()
                self._answer_all(socket)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    def _answer_all(self, socket: Socket) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._heard, zmq.POLLIN)
        while not self._stopped:
            wait = None if not self._waiting else max(0.0, self._waiting[0][0] - monotonic())
            ready = dict(poller.poll(None if wait is None else ceil(wait * 1000)))
            if self._heard in ready:
                os.read(self._heard, 4096)
            if socket in ready:
                self._waiting.append((monotonic() + HOLD_SECONDS, socket.recv_multipart()))
            waiting, self._waiting = self._waiting, []
            for until, request in waiting:
                self._answer(socket, until, request)

    def _answer(self, socket: Socket, until: float, frames: list[bytes]) -> None:
        sender, *request = frames
        number = request[2] if len(request) > 2 else b""
        public = _client_key(request)
        admits = self._admits.get(request[3].decode("ascii", "replace")) if public else None
        admitted = admits is not None and admits(public)
        if admitted is None and monotonic() < until and len(self._waiting) < _MOST_WAITING:
            self._waiting.append((until, frames))
            return
        if not admitted:
            self.refused += 1
        # After 300 a client tries again, if slowly; after 400 never.
        refused = [b"300" if admitted is None else b"400", b"refused", b""]
        status = [b"200", b"OK", public] if admitted else refused
        with suppress(zmq.ZMQError):  # who asked is gone
            socket.send_multipart([sender, b"", _ZAP_VERSION, number, *status, b""], zmq.NOBLOCK)


def _client_key(request: list[bytes]) -> bytes:
    """The public key (Z85) of a CURVE handshake; b"" of anything else."""
    if len(request) != 8 or request[:2] != [b"", _ZAP_VERSION] or request[6] != b"CURVE":
        return b""
    return z85.encode(request[7]) if len(request[7]) == 32 else b""


def require_address(address: str) -> str:
    """tcp or ipc, the transport of an address. Raises ConfigError for what is no address."""
    transport, separator, rest = address.partition("://")
    if transport not in ("tcp", "ipc") or not separator or not rest:
        raise ConfigError(
            f"{address!r} is no address of a cluster", hint="write tcp://host:port or ipc://path"
        )
    if transport == "tcp" and not re.search(r":([0-9]+|\*)$", rest):
        raise ConfigError(f"{address!r} names no port", hint="write tcp://host:port")
    return transport


def require_transport(address: str, pair: KeyPair | None) -> str:
    """tcp or ipc, the transport of an address.

    Raises: SecurityError for TCP without keys; ConfigError for what is no address.
    """
    transport = require_address(address)
    if transport == "tcp" and pair is None:
        raise SecurityError(
            f"{address} over TCP needs keys", hint="name a key file, made by: scalops keys create"
        )
    return transport


def limited(socket: Socket) -> Socket:
    """A socket that takes no more than it must from strangers, and ends at once."""
    socket.linger = 0
    socket.maxmsgsize = MAX_FRAME
    socket.setsockopt(zmq.HANDSHAKE_IVL, round(HANDSHAKE_SECONDS * 1000))
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Who comes back over a new connection is heard before the old one is known to be dead.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    else:
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    return socket


def bind(
    socket: Socket, address: str, pair: KeyPair | None, domain: str, zap: Authenticator | None
) -> str:
    """Serve at an address; the one that was chosen where it has `*` for a port.

    Over TCP `zap` answers for `domain`, which is tested: a random key must be refused.
    Raises: SecurityError, ConfigError.
    """
    transport = require_transport(address, pair)
    limited(socket)
    socket.ipv6 = "[" in address
    if transport == "ipc":
        return _bind_file(socket, Path(address.removeprefix("ipc://")))
    if zap is None:
        raise SecurityError(f"nobody checks the keys of those who connect to {address}")
    zap.require_alive()
    assert pair is not None
    secure_server(socket, pair, domain)
    _bind(socket, address)
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    try:
        self_test(bound, pair.public, zap)
    except BaseException:
        socket.close()
        raise
    return bound


def secure_server(socket: Socket, pair: KeyPair, domain: str) -> None:
    """Let in those alone whose keys are found good for the domain."""
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = pair.public, pair.secret
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode("ascii"))
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def connect(socket: Socket, address: str, pair: KeyPair | None, server: bytes | None) -> None:
    """Connect to a server; over TCP to the one with the public key `server` alone.

    Raises: SecurityError, ConfigError.
    """
    if require_transport(address, pair) == "tcp":
        if not server:
            raise SecurityError(
                f"the public key of the cluster at {address} is not known",
                hint="it is the line `cluster` of a key file, which scalops keys create writes in"
                " the cluster's folder, or as --cluster KEY says",
            )
        assert pair is not None
        socket.curve_serverkey = server
        socket.curve_publickey, socket.curve_secretkey = pair.public, pair.secret
    limited(socket)
    socket.ipv6 = "[" in address
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise ConfigError(f"{address} cannot be reached: {error.strerror}") from None


def _bind_file(socket: Socket, path: Path) -> str:
    private_folder(path.parent)
    if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
        raise ConfigError(
            f"{path} is too long for a socket ({zmq.IPC_PATH_MAX_LEN} bytes at most)",
            hint="name a folder with a shorter path",
        )
    filter_users(socket)
    _bind(socket, f"ipc://{path}")
    os.chmod(path, 0o600)
    return f"ipc://{path}"


def filter_users(socket: Socket) -> None:
    """Refuse connections of other users' processes over ipc."""
    socket.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())


def _bind(socket: Socket, address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise ConfigError(f"{address} cannot be served: {error.strerror}") from None


def self_test(
    address: str, public: bytes, zap: Authenticator, seconds: float = SELF_TEST_SECONDS
) -> None:
    """Knock with a random key. Raises SecurityError unless it is `zap` that refuses it.

    One of another context, or that has been stopped, is asked by nobody.
    """
    before = zap.refused
    said = knock(reachable(address), new_pair(), public, seconds)
    if said not in ("refused", "dropped"):
        raise SecurityError(f"the server at {address} does not refuse a random key: {said}")
    if zap.refused == before:
        raise SecurityError(f"nobody checks the keys of those who connect to {address}")


def knock(address: str, pair: KeyPair, server: bytes, seconds: float) -> str:
    """What a server says to a key: let in, refused, dropped (without a word) or no answer."""
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
        socket.get_monitor_socket(_SAYS) as monitor,
    ):
        connect(socket, address, pair, server)
        deadline = monotonic() + seconds
        said = "no answer"
        while said == "no answer":
            left = deadline - monotonic()
            if left <= 0 or not monitor.poll(ceil(left * 1000)):
                break
            said = _WORDS.get(int(recv_monitor_message(monitor)["event"]), said)
        socket.disable_monitor()
    return said


def require_welcome(
    address: str, pair: KeyPair | None, key_file: object, seconds: float = SELF_TEST_SECONDS
) -> None:
    """Raises SecurityError, ConfigError where a cluster over TCP does not let a key in, or where
    there is no socket of one of this host.
    """
    if require_transport(address, pair) == "ipc" or pair is None:
        path = Path(address.removeprefix("ipc://"))
        if not path.exists():
            raise ConfigError(
                f"no cluster runs at {address}: there is no such file",
                hint="scalops cluster start prints where it is",
            )
        return
    if not pair.cluster and Path(str(key_file)).name == BROKER + SECRET:
        raise SecurityError(
            f"{key_file} is the broker's own key", hint="show one of a driver, as driver.secret"
        )
    said = knock(address, pair, pair.cluster, seconds)
    if said == "refused":
        raise SecurityError(
            f"the cluster at {address} does not let in the key {key_file}",
            hint="its folder authorized/ has no file for this key, or not any more",
        )
    if said == "dropped":
        raise SecurityError(
            f"the server at {address} does not prove to be the cluster of the key {key_file}",
            hint="the line `cluster` of the key file must be the cluster's public key",
        )
    if said == "no answer":
        raise ConfigError(
            f"no cluster answers at {address} within {seconds:g} s",
            hint="scalops cluster status, on its host, tells whether it runs",
        )


_WORDS: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "let in",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "dropped",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "dropped",
    zmq.EVENT_DISCONNECTED: "dropped",
}
_SAYS = sum(_WORDS)


def reachable(bound: str) -> str:
    """The address at which this host reaches what is bound to any of its interfaces."""
    for any_host, own in (("//0.0.0.0:", "//127.0.0.1:"), ("//[::]:", "//[::1]:")):
        bound = bound.replace(any_host, own)
    return bound


def receive(socket: Socket, most: int = MAX_PARTS) -> list[zmq.Frame] | None:
    """The next message, not copied; None for one of too many parts, which is thrown away.

    Raises zmq.Again where there is none.
    """
    frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    while frames[-1].more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        if len(frames) == most:
            while frame.more:
                frame = socket.recv(zmq.NOBLOCK, copy=False)
            return None
        frames.append(frame)
    return frames


def sender_key(frame: zmq.Frame) -> bytes:
    """The public key (Z85) of whoever sent a frame; b"" where no keys are asked for (ipc)."""
    try:
        found = frame.get("User-Id")
    except zmq.ZMQError:
        return b""
    return found.encode("ascii") if isinstance(found, str) else bytes(found)
