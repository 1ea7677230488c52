"""Who is kept out of a cluster, and what strangers cannot break."""

from __future__ import annotations

import os
import random
import socket as sockets
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from scalops.algebra.errors import ConfigError, SecurityError
from scalops.engine.cluster import messages, security
from scalops.engine.cluster.channel import Channels
from scalops.engine.cluster.keys import KeyPair, new_pair
from scalops.engine.cluster.membership import Said
from scalops.engine.cluster.messages import Bye, Detach, Hello, Refused, Stop
from scalops.engine.cluster.relay import BROKER, CHANNEL, Relay
from scalops.engine.cluster.remote_hub import RemoteHub
from scalops.engine.cluster.security import CONTROL, Authenticator, Socket, bind, connect, knock
from tests.cluster.brokers import (
    Keys,
    ipc_relay,
    made_keys,
    peer,
    require_service,
    tcp_relay,
)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return made_keys(tmp_path / "keys")


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def router(context: zmq.Context[Socket]) -> Iterator[Socket]:
    with context.socket(zmq.ROUTER) as made:
        made.linger = 0
        yield made


@pytest.fixture
def dealer(context: zmq.Context[Socket]) -> Iterator[Socket]:
    with context.socket(zmq.DEALER) as made:
        made.linger = 0
        yield made


def said_to(relay: Relay, pair: KeyPair, server: bytes | None = None) -> str:
    return knock(relay.address, pair, pair.cluster if server is None else server, 10)


# Keys.


def test_keys_that_are_let_in_are(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        assert said_to(relay, keys.pair("driver")) == "let in"
        require_service(relay, keys.pair("worker"))


def test_a_random_key_is_refused(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        assert said_to(relay, new_pair(keys.pair("broker").public)) == "refused"


def test_who_expects_another_broker_is_not_let_in(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        assert said_to(relay, keys.pair("driver"), new_pair().public) == "dropped"


def test_a_revoked_key_is_refused_without_a_restart(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        assert said_to(relay, keys.pair("driver")) == "let in"
        keys.authorized("driver", "driver").unlink()
        assert said_to(relay, keys.pair("driver")) == "refused"


def test_a_connection_ends_with_its_key(keys: Keys) -> None:
    with tcp_relay(keys, lease=0.8) as relay, peer(relay, keys.pair("worker")) as worker:
        worker.join()
        keys.authorized("worker", "worker").unlink()
        worker.until(lambda: not relay.membership.workers)
        assert relay.membership.lost(worker.name) == "its key was revoked"
        worker.link.say(worker.hello())
        worker.until(lambda: relay.refused["key"] > 0)
        assert not relay.membership.workers


def test_a_key_that_is_let_in_later_needs_no_restart(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        file = keys.authorized("worker", "worker")
        text = file.read_text()
        file.unlink()
        assert said_to(relay, keys.pair("worker")) == "refused"
        file.write_text(text)
        require_service(relay, keys.pair("worker"))


@pytest.mark.parametrize(("role", "is_worker"), [("driver", True), ("worker", False)])
def test_a_key_serves_its_role_alone(keys: Keys, role: str, is_worker: bool) -> None:
    with tcp_relay(keys) as relay, peer(relay, keys.pair(role)) as other:
        other.link.say(other.hello() if is_worker else other.attach())
        assert other.expect(Refused).reason == f"the key is a {role}'s"
        assert not relay.membership.workers


@pytest.mark.parametrize("body", [Stop(), Detach("", "")])
def test_a_worker_cannot_speak_for_a_driver(keys: Keys, body: Any) -> None:
    with tcp_relay(keys) as relay, peer(relay, keys.pair("worker")) as worker:
        worker.link.say(body)
        worker.expect(Refused)
        assert relay.ended is None


def test_a_name_belongs_to_the_key_that_came_with_it(keys: Keys) -> None:
    with tcp_relay(keys) as relay, peer(relay, keys.pair("worker")) as worker:
        worker.join()
        with peer(relay, keys.pair("driver"), name=worker.name) as thief:
            thief.link.say(Bye(worker.name, "stolen"))
            thief.until(lambda: relay.refused["another's name"] > 0)
        assert relay.membership.workers == 1


def test_nobody_says_goodbye_for_a_worker_of_another_key(keys: Keys) -> None:
    with ipc_relay(keys.folder) as relay, peer(relay) as worker:
        worker.join()
        said = Said("other", b"k" * 40, "worker", Bye(worker.name, "killed"))
        assert relay.membership.handle(said, 0.0) == []
        assert relay.membership.workers == 1


def test_a_worker_that_claims_another_key_is_refused(keys: Keys) -> None:
    with tcp_relay(keys) as relay, peer(relay, keys.pair("worker")) as worker:
        worker.link.say(worker.hello(key=new_pair().public))
        assert "another worker than the one that connected" in worker.expect(Refused).reason


# Servers that would let strangers in.


def test_an_authenticator_of_another_context_is_none(router: Socket) -> None:
    elsewhere: zmq.Context[Socket] = zmq.Context()
    zap = Authenticator(elsewhere, {CONTROL: lambda _: False})
    with pytest.raises(SecurityError, match="nobody checks the keys"):
        bind(router, "tcp://127.0.0.1:*", new_pair(), CONTROL, zap)
    zap.stop()
    elsewhere.destroy(linger=0)


def test_a_stopped_authenticator_is_none(context: zmq.Context[Socket], router: Socket) -> None:
    zap = Authenticator(context, {CONTROL: lambda _: True})
    zap.stop()
    with pytest.raises(SecurityError, match="nobody checks keys any more: it was stopped"):
        bind(router, "tcp://127.0.0.1:*", new_pair(), CONTROL, zap)


def test_when_the_authenticator_stops_nobody_is_let_in(keys: Keys) -> None:
    with tcp_relay(keys, lease=0.0) as relay:
        assert relay._zap is not None
        relay._zap.stop()
        assert said_to(relay, keys.pair("driver")) == "dropped"
        with pytest.raises(SecurityError, match="nobody checks keys any more"):
            relay.turn()


def test_the_end_of_the_authenticators_thread_is_fatal(
    context: zmq.Context[Socket], router: Socket
) -> None:
    broken = False

    def admits(public: bytes) -> bool:
        if broken:
            raise OSError("the disk is gone")
        return False

    zap = Authenticator(context, {CONTROL: admits})
    pair = new_pair()
    address = bind(router, "tcp://127.0.0.1:*", pair, CONTROL, zap)
    broken = True
    assert knock(address, new_pair(), pair.public, 0.2) != "let in"
    zap._thread.join(20)
    with pytest.raises(SecurityError, match="nobody checks keys any more: the disk is gone"):
        zap.require_alive()
    zap.stop()


def test_a_domain_without_an_answer_lets_nobody_in(
    context: zmq.Context[Socket], router: Socket
) -> None:
    zap = Authenticator(context, {"another": lambda _: True})
    pair = new_pair()
    address = bind(router, "tcp://127.0.0.1:*", pair, CONTROL, zap)
    assert knock(address, new_pair(), pair.public, 10) == "refused"
    zap.stop()


@pytest.mark.parametrize("domain", ["", CONTROL])
def test_the_self_test_finds_a_server_that_lets_in_any_key(domain: str, router: Socket) -> None:
    """As CURVE alone does, and a domain that is not enforced and has no answer."""
    pair, server = new_pair(), router
    server.curve_server = True
    server.curve_publickey, server.curve_secretkey = pair.public, pair.secret
    if domain:
        server.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
    server.bind("tcp://127.0.0.1:*")
    address = server.getsockopt_string(zmq.LAST_ENDPOINT)
    elsewhere: zmq.Context[Socket] = zmq.Context()
    zap = Authenticator(elsewhere, {CONTROL: lambda _: False})
    with pytest.raises(SecurityError, match="does not refuse a random key: let in"):
        security.self_test(address, pair.public, zap)
    zap.stop()
    elsewhere.destroy(linger=0)


def test_two_authenticators_of_one_context_are_refused(context: zmq.Context[Socket]) -> None:
    first = Authenticator(context, {})
    with pytest.raises(SecurityError, match="keys cannot be checked: Address already in use"):
        Authenticator(context, {})
    first.require_alive()
    first.stop()


def test_servers_have_an_enforced_domain_and_limits(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        found = [relay.socket.getsockopt(o) for o in (zmq.ZAP_ENFORCE_DOMAIN, zmq.MAXMSGSIZE)]
        assert found == [1, 2 << 20]
        assert relay.socket.getsockopt_string(zmq.ZAP_DOMAIN).rstrip("\0") == CONTROL
        assert relay.socket.getsockopt(zmq.LINGER) == 0


# Configuration.


def test_tcp_without_keys_is_refused_at_configuration(
    keys: Keys, router: Socket, dealer: Socket
) -> None:
    with pytest.raises(SecurityError, match="over TCP needs keys"):
        bind(router, "tcp://127.0.0.1:*", None, CONTROL, None)
    with pytest.raises(SecurityError, match="over TCP needs keys"):
        connect(dealer, "tcp://127.0.0.1:1", None, None)
    with pytest.raises(SecurityError, match="over TCP needs keys"):
        RemoteHub("tcp://127.0.0.1:1")
    with pytest.raises(SecurityError, match="over TCP needs keys"):
        Relay("tcp://127.0.0.1:*", None, keys.folder)
    with pytest.raises(SecurityError, match="nobody checks the keys"):
        bind(router, "tcp://127.0.0.1:*", new_pair(), CONTROL, None)


def test_a_key_without_its_cluster_is_refused(dealer: Socket) -> None:
    with pytest.raises(SecurityError, match=r"public key of the cluster at .* is not known"):
        connect(dealer, "tcp://127.0.0.1:1", new_pair(), None)


@pytest.mark.parametrize("address", ["", "tcp", "tcp://", "udp://h:1", "inproc://x", "h:5555"])
def test_other_transports_are_refused(address: str, router: Socket) -> None:
    with pytest.raises(ConfigError, match="is no address of a cluster"):
        bind(router, address, new_pair(), CONTROL, None)


def test_a_driver_that_is_not_let_in_is_told_why(keys: Keys) -> None:
    with tcp_relay(keys) as relay:
        keys.authorized("driver", "driver").unlink()
        with pytest.raises(SecurityError, match=r"does not let in the key .*driver\.secret"):
            RemoteHub(relay.address, keys.secret("driver"))


# What strangers and peers send.


def test_who_comes_without_keys_is_not_heard(keys: Keys, dealer: Socket) -> None:
    with tcp_relay(keys) as relay:
        dealer.connect(relay.address)
        dealer.send_multipart([b"stranger", b"", b"x"])
        require_service(relay, keys.pair("worker"))
        assert (relay.membership.workers, sum(relay.refused.values())) == (1, 0)


def test_malformed_handshakes_are_survived(keys: Keys) -> None:
    chance = random.Random(6)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(48)
    with tcp_relay(keys) as relay:
        host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
        open_ones = []
        for number in range(100):
            stranger = sockets.create_connection((host, int(port)))
            text = bytearray(greeting + bytes([4, 200]) + b"\x05HELLO" + chance.randbytes(194))
            for _ in range(number % 7):
                text[chance.randrange(len(text))] = chance.randrange(256)
            stranger.sendall(text[: chance.randrange(len(text))] if number % 2 else text)
            open_ones.append(stranger)
        require_service(relay, keys.pair("worker"))
        for stranger in open_ones:
            stranger.close()
        require_service(relay, keys.pair("worker"))


@pytest.mark.parametrize("extra", [1, 8 << 20])
def test_oversize_frames_end_their_connection_alone(keys: Keys, extra: int) -> None:
    with tcp_relay(keys) as relay, peer(relay, keys.pair("worker")) as worker:
        worker.join()
        with peer(relay, keys.pair("worker")) as other:
            other.socket.send_multipart([b"other", b"", bytes(security.MAX_FRAME + extra)])
            require_service(relay, keys.pair("worker"))
        assert relay.membership.lost(worker.name) is None


@pytest.mark.parametrize("parts", [65, 30_000, pytest.param(10**6, marks=pytest.mark.long)])
def test_a_message_of_many_parts_is_thrown_away(tmp_path: Path, parts: int) -> None:
    with ipc_relay(tmp_path / "c") as relay, peer(relay) as other:
        other.socket.send_multipart([b""] * parts)
        other.until(lambda: relay.refused["parts"] == 1)
        require_service(relay, None)


def _fuzzed(chance: random.Random, channels: Channels, known: list[list[bytes]]) -> list[bytes]:
    """A control message that makes no sense, in one of the ways in which it can."""
    kind = chance.randrange(5)
    if kind == 0:
        return [chance.randbytes(chance.randrange(80)) for _ in range(chance.randrange(5))]
    if kind == 1:  # to the broker, of a sound name, noise
        return [b"fuzz", b"", *(chance.randbytes(chance.randrange(120)) for _ in range(2))]
    frames = [b"fuzz", b"", *chance.choice(known)]
    if kind == 2:  # for others
        return [b"fuzz", chance.choice([b"?", b"driver", chance.randbytes(4)]), *frames[2:]]
    at = 2 + chance.randrange(len(frames) - 2)
    part = bytearray(frames[at])
    if kind == 3 and part:  # damaged
        part[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
    elif part:  # cut
        del part[chance.randrange(len(part)) :]
    frames[at] = bytes(part)
    return frames


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_fuzzed_control_messages_are_survived(tmp_path: Path, count: int) -> None:
    chance = random.Random(7)
    with ipc_relay(tmp_path / "c") as relay, peer(relay) as other:
        channels = Channels("fuzz", CHANNEL)
        for body in (other.hello(), other.attach(), Bye("w", "r"), Stop(), messages.Ping()):
            channels.send(BROKER, body)
        known = [[bytes(f) for f in frames] for _, frames in channels.outgoing(0.0)]
        sent = 0
        while sent < count:
            for _ in range(500):
                other.socket.send_multipart(_fuzzed(chance, channels, known) or [b""])
            sent += 500
            other.until(lambda: not relay.socket.poll(0))
        refused = sum(relay.refused.values()) + sum(relay._channels.refused.values())
        assert refused > 0.6 * count
        assert (relay.ended, relay.membership.workers) == (None, 0)
        require_service(relay, None)


@pytest.mark.parametrize(
    "body",
    [
        messages.Welcome("s", 1.0, {}),
        messages.Serve("s", "d"),
        messages.Attached("s", ()),
        messages.Shutdown("r"),
        messages.StatusIs(()),
        messages.Left("w", "r"),
        Detach("s", "r"),
    ],
    ids=lambda body: type(body).__name__,
)
def test_messages_out_of_place_change_nothing(tmp_path: Path, body: Any) -> None:
    with ipc_relay(tmp_path / "c") as relay, peer(relay) as other, peer(relay) as worker:
        worker.join()
        other.link.say(body)
        other.until(lambda: not other.link.has_words_left())
        assert (relay.ended, relay.membership.workers) == (None, 1)


@pytest.mark.parametrize("seed", range(8))
def test_who_talks_nonsense_in_sound_frames_is_listened_to_no_more(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    message = bytearray(messages.encode(Bye("w", "r"))) if seed else bytearray(b"\xc1")
    message[0] = 0xDC if seed % 2 else message[0]
    message += chance.randbytes(40)
    with ipc_relay(tmp_path / "c") as relay, peer(relay) as other, peer(relay) as worker:
        worker.join()
        other.link.say(messages.Ping())
        channel = other.link._channels._channel(BROKER)
        assert channel is not None
        channel._outbox.add(bytes(message), ())
        other.until(lambda: relay.membership.lost(other.name) is not None)
        assert str(relay.membership.lost(other.name)).startswith("it talks nonsense: ")
        assert relay.membership.workers == 1


def test_replayed_messages_are_accepted_0_times(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[Any] = []
    with tcp_relay(keys) as relay, peer(relay, keys.pair("worker")) as worker:
        handle = relay.membership.handle

        def counted(event: Any, now: float) -> Any:
            if isinstance(event, Said):
                accepted.append(event.body)
            return handle(event, now)

        monkeypatch.setattr(relay.membership, "handle", counted)
        sent: list[Any] = []
        send = worker.link._send

        def recorded(frames: Any) -> None:
            sent.append(list(frames))
            send(frames)

        monkeypatch.setattr(worker.link, "_send", recorded)
        worker.join()
        worker.until(lambda: not worker.link.has_words_left())
        assert [type(body) for body in accepted] == [Hello]
        # Over the same connection, over another, and under another name.
        with peer(relay, keys.pair("worker")) as other:
            for frames in sent * 50:
                worker.socket.send_multipart(frames)
                other.socket.send_multipart(frames)
                other.socket.send_multipart([b"other", *frames[1:]])
            other.until(lambda: not relay.socket.poll(50))
        assert len(accepted) == 1
        refused = relay._channels.refused
        assert refused["replayed"] + refused["foreign"] >= 150


# One host.


def test_a_cluster_of_one_host_listens_at_no_port(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with ipc_relay(tmp_path / "c") as relay:
            assert not _listening()
            folder, file = tmp_path / "c", tmp_path / "c" / "broker"
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)]
            assert modes == [0o700, 0o600]
            require_service(relay, None)
    finally:
        os.umask(before)


def _listening() -> set[str]:
    """The inodes of this process's sockets that listen at a TCP port."""
    own = set()
    for file in Path("/proc/self/fd").iterdir():
        try:
            own.add(os.readlink(file))
        except OSError:  # it was the folder's own
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(f"socket:[{fields[9]}]")
    return own & found


def test_the_check_for_ports_finds_one(keys: Keys) -> None:
    with tcp_relay(keys):
        assert len(_listening()) == 1


_GREETED = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
try:
    s.connect(sys.argv[1])
    print("greeted" if s.recv(1) else "dropped")
except PermissionError:
    print("no entry")
except ConnectionResetError:
    print("dropped")
"""


def _greeted_as(user: int, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _GREETED, str(path), str(user)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def let_pass(folder: Path) -> None:
    """Let others reach what is in a folder of the tests'."""
    while folder not in (Path(tempfile.gettempdir()), Path(folder.anchor)):
        folder.chmod(0o755)
        folder = folder.parent


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@needs_root
def test_another_user_is_refused_by_the_folder(tmp_path: Path) -> None:
    let_pass(tmp_path)
    with ipc_relay(tmp_path / "c"):
        assert _greeted_as(65534, tmp_path / "c" / "broker") == "no entry"


@needs_root
def test_another_user_is_refused_by_the_filter(tmp_path: Path) -> None:
    let_pass(tmp_path)
    with ipc_relay(tmp_path / "c"):
        (tmp_path / "c").chmod(0o755)
        (tmp_path / "c" / "broker").chmod(0o666)
        assert _greeted_as(65534, tmp_path / "c" / "broker") == "dropped"
        assert _greeted_as(os.geteuid(), tmp_path / "c" / "broker") == "greeted"
