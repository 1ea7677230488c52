"""The daemon of a cluster: its relay, its keys, and the workers of its host.

Started by `scalops cluster start` as `python -m scalops.engine.cluster.broker FOLDER`; the folder
has the settings in `settings.json`, and while the daemon runs `cluster.json` says where it is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import zmq

from scalops.algebra.errors import ConfigError, ScalopsError
from scalops.engine.cluster.keys import BROKER, SECRET, create_keys, private_folder, read_secret
from scalops.engine.cluster.membership import LEASE, TURNOVER
from scalops.engine.cluster.relay import Relay
from scalops.engine.cluster.remote_worker import MACHINE
from scalops.engine.cluster.security import require_address, require_transport
from scalops.engine.cluster.supervisor import Supervisor, WorkerSettings
from scalops.engine.cluster.worker_daemon import Signals
from scalops.engine.processes import launching

MODULE = "scalops.engine.cluster.broker"
STATE, LOG, SOCKET = "cluster.json", "broker.log", "broker"
LOCAL_WORKERS = "local"  # the name of their keys
DRIVER = "driver"  # the name of the key that is made for drivers
# Kept, so that a process that has started a daemon does not give it up while it runs.
_daemons: list[subprocess.Popen[bytes]] = []
_START_SECONDS = 30.0  # for the workers of this host to come before the first driver's turn
_LAST_WORDS = 1.0  # seconds for everybody to hear that the cluster ends


@dataclass(frozen=True)
class BrokerSettings:
    """Of a cluster. Times in seconds."""

    folder: Path  # private: keys, state, sockets, log
    bind: str | None = None  # tcp://host:port; None: this host alone
    workers: int = 0  # processes of this host
    data_host: str = "127.0.0.1"  # where other hosts' workers reach those of this one
    lease: float = LEASE
    turnover: float = TURNOVER
    machine: tuple[str, str] = MACHINE
    worker: Mapping[str, Any] = field(default_factory=dict)  # what workers' machines are told


class Broker:
    """A cluster, while it runs: `turn` it until `ended`, then `close` it."""

    def __init__(self, settings: BrokerSettings) -> None:
        """Raises: SecurityError, ConfigError."""
        self._settings = settings
        folder = private_folder(settings.folder)
        if settings.bind is None:
            self.relay = self._made_relay(f"ipc://{folder / SOCKET}", None, None)
        else:
            require_transport(settings.bind, read_secret(self._key(BROKER)))
            pair = read_secret(self._key(BROKER))
            self.relay = self._made_relay(settings.bind, pair, folder)
        try:
            self._supervisor = Supervisor(
                settings.workers, self._worker_settings(), folder, self.relay.note_end
            )
        except BaseException:
            self.relay.close()
            raise
        self.relay.membership.is_watched = lambda peer: peer in self._supervisor.workers()
        self.relay.membership.expect(settings.workers, monotonic() + _START_SECONDS)

    def _made_relay(self, address: str, pair: Any, keys: Path | None) -> Relay:
        settings = self._settings
        return Relay(address, pair, keys, lease=settings.lease, turnover=settings.turnover)

    def _key(self, name: str) -> Path:
        return self._settings.folder / (name + SECRET)

    def _worker_settings(self) -> WorkerSettings:
        settings = self._settings
        is_tcp = settings.bind is not None
        return WorkerSettings(
            broker=self.relay.address,
            key=str(self._key(LOCAL_WORKERS)) if is_tcp else None,
            data=f"tcp://{settings.data_host}:*" if is_tcp else "ipc",
            machine=settings.machine,
            worker=settings.worker,
        )

    @property
    def uri(self) -> str:
        """Where drivers find it."""
        return self.relay.address

    @property
    def ended(self) -> bool:
        """Whether somebody has told it to end."""
        return self.relay.ended is not None

    def turn(self, wake: int | None = None) -> None:
        """Wait until something is to be done, and do it; `wake` is a file that ends the wait."""
        poller = zmq.Poller()
        poller.register(self.relay.socket, zmq.POLLIN)
        for end in self._supervisor.ends():
            poller.register(end, zmq.POLLIN)
        if wake is not None:
            poller.register(wake, zmq.POLLIN)
        waits = [self.relay.seconds()]
        pause = self._supervisor.seconds()
        if pause is not None:
            waits.append(pause)
        poller.poll(ceil(min(waits) * 1e3))
        self.relay.turn()
        self._judge()
        self._supervisor.keep()

    def _judge(self) -> None:
        """End workers of this host that are silent, and do not compute either."""
        membership = self.relay.membership
        for worker, seconds in list(membership.silent.items()):
            if self._supervisor.has_computed(worker):
                membership.heard(worker, monotonic())
            elif seconds >= membership.lease and membership.is_watched(worker):
                self._supervisor.end(worker, f"it was silent for {seconds:.3g} s")

    def close(self) -> None:
        """End all, telling everybody."""
        if self.relay.ended is None:
            self.relay.stop("the cluster was stopped")
        until = monotonic() + _LAST_WORDS
        while self.relay.has_words_left() and monotonic() < until:
            with suppress(ScalopsError):
                self.relay.turn()
            self.relay.socket.poll(10)
        self._supervisor.close()
        self.relay.close()
        if self._settings.bind is None:
            (self._settings.folder / SOCKET).unlink(missing_ok=True)


def prepare(settings: BrokerSettings) -> None:
    """Make the folder, and over TCP the keys that are missing.

    Raises: ConfigError, SecurityError.
    """
    if settings.bind is not None:
        require_address(settings.bind)
    folder = private_folder(settings.folder)
    if settings.bind is None:
        return
    for name, role in ((BROKER, BROKER), (LOCAL_WORKERS, "worker"), (DRIVER, "driver")):
        if not (folder / (name + SECRET)).exists():
            create_keys(folder, name, role)


def running(folder: Path) -> dict[str, Any] | None:
    """What is known of the daemon that runs in a folder: uri, process; None where none runs."""
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        alive = psutil.Process(found["process"]).create_time() == found["since"]
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return dict(found) if alive else None


def write_state(folder: Path, uri: str) -> None:
    """Say where the daemon is: this process."""
    state = {
        "uri": uri,
        "process": os.getpid(),
        "since": psutil.Process().create_time(),
    }
    path = folder / f"{STATE}.{os.getpid()}"
    path.write_text(json.dumps(state), encoding="utf-8")
    path.replace(folder / STATE)


def serve(settings: BrokerSettings) -> None:
    """Run a cluster until SIGTERM or SIGINT, or somebody says so.

    Raises: SecurityError, ConfigError.
    """
    _require_free(settings.folder)
    signals = Signals()
    try:
        broker = Broker(settings)
        try:
            write_state(settings.folder, broker.uri)
            print(broker.uri, flush=True)
            # Without its folder nobody could find it to stop it.
            while not signals.came and not broker.ended and (settings.folder / STATE).exists():
                broker.turn(signals.file)
        finally:
            broker.close()
            with suppress(OSError):
                (settings.folder / STATE).unlink()
    finally:
        signals.close()


def _require_free(folder: Path) -> None:
    if (other := running(folder)) is not None:
        raise ConfigError(
            f"a cluster runs in {folder} already: {other['uri']}",
            hint="scalops cluster stop ends it",
        )


def default_folder(bind: str | None) -> Path:
    """Where a cluster's files are: over TCP its keys outlive the machine's runs."""
    if bind is not None:
        given = os.environ.get("XDG_CONFIG_HOME")
        config = Path(given) if given else Path.home() / ".config"
        return config / "scalops" / "cluster"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "scalops" if runtime else Path(f"/tmp/scalops-{os.geteuid()}")


def start(settings: BrokerSettings) -> dict[str, Any]:
    """Start the daemon, and wait until it serves; what `running` says of it.

    Raises: ConfigError, SecurityError, with what the daemon said where it ended.
    """
    _require_free(settings.folder)  # before anything is written into its log
    prepare(settings)
    log_file = settings.folder / LOG
    with log_file.open("ab") as output:
        os.chmod(log_file, 0o600)
        said_before = output.tell()
        daemon = subprocess.Popen(
            launching.command(MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=launching.environment(),
            start_new_session=True,
        )
    _daemons.append(daemon)
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    with daemon.stdin, daemon.stdout:
        with suppress(OSError):  # it has ended: that is seen below
            daemon.stdin.write(encode_settings(settings).encode() + b"\n")
            daemon.stdin.flush()
        if not daemon.stdout.readline():
            daemon.wait()
            said = log_file.read_bytes()[said_before:].decode("utf-8", "replace").strip()
            last = re.sub(r"^(ConfigError|SecurityError): ", "", said.rpartition("\n")[2])
            raise ConfigError(
                f"the cluster did not start: {last or 'it said nothing'}",
                hint=f"{log_file} has all that it said",
            )
    found = running(settings.folder)
    if found is None:
        raise ConfigError("the cluster ended as it began", hint=f"see {log_file}")
    return found


def stop(folder: Path, seconds: float = 10.0) -> dict[str, Any] | None:
    """End the daemon of a folder; what was known of it, None where none ran.

    Raises ConfigError where it does not end in time.
    """
    found = running(folder)
    if found is None:
        return None
    for child in _daemons:
        child.poll()
    with suppress(psutil.NoSuchProcess):
        daemon = psutil.Process(found["process"])
        daemon.terminate()
        try:
            daemon.wait(seconds)
        except psutil.TimeoutExpired:
            raise ConfigError(
                f"the cluster {found['uri']} (process {found['process']}) has not ended within"
                f" {seconds:g} s"
            ) from None
    return found


def encode_settings(settings: BrokerSettings) -> str:
    """Settings as JSON."""
    return json.dumps({**asdict(settings), "folder": str(settings.folder)})


def decode_settings(text: str) -> BrokerSettings:
    """Settings of `encode_settings`."""
    found = json.loads(text)
    machine = tuple(found["machine"])
    return BrokerSettings(**{**found, "folder": Path(found["folder"]), "machine": machine})


def main() -> None:
    """Serve a cluster as the settings on standard input say."""
    settings = decode_settings(sys.stdin.readline())
    try:
        serve(settings)
    except ScalopsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
