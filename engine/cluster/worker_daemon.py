"""Workers of this host for a cluster whose broker runs elsewhere: `scalops worker`."""

from __future__ import annotations

import logging
import os
import secrets
import select
import signal
import socket as sockets
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import monotonic

from scalops.algebra.errors import ConfigError, ScalopsError
from scalops.engine.cluster import broker_client
from scalops.engine.cluster.cluster_watch import ClusterWatch
from scalops.engine.cluster.death_places import told_places
from scalops.engine.cluster.keys import read_secret
from scalops.engine.cluster.messages import Bye
from scalops.engine.cluster.private_folder import PrivateFolder
from scalops.engine.cluster.remote_worker import STOPPED
from scalops.engine.cluster.security import require_transport, require_welcome
from scalops.engine.cluster.supervisor import Supervisor, WorkerSettings
from scalops.engine.progress import Place

log = logging.getLogger("scalops")
_ASK_SECONDS = 1.0  # between two signs of life
_GONE_SECONDS = 60.0  # after which it does not come back


class Signals:
    """SIGTERM and SIGINT as a file that can be waited for, until this is closed."""

    def __init__(self) -> None:
        self.came = False
        self.file, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._handlers = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _note(self, number: int, frame: object) -> None:
        self.came = True

    def close(self) -> None:
        """As it was before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before)
        os.close(self.file)
        os.close(self._told)


def address_towards(uri: str) -> str:
    """The address of this host that a broker's host sees; 127.0.0.1 where no way leads there."""
    host, _, port = uri.removeprefix("tcp://").rpartition(":")
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    with suppress(OSError, ValueError), sockets.socket(family, sockets.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))  # nothing is sent
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def run_workers(count: int, settings: WorkerSettings, say: Callable[[str], None]) -> None:
    """Keep workers of a cluster going until SIGTERM, SIGINT, or the cluster is stopped.

    `say` is told when all have joined, and when the cluster was stopped. Raises: ConfigError,
    SecurityError where the cluster does not let them in, or is gone for a minute.
    """
    pair = None if settings.key is None else read_secret(Path(settings.key))
    require_transport(settings.broker, pair)
    require_welcome(settings.broker, pair, settings.key)
    # Of nobody: a key that is no worker's is refused before anything is started.
    broker_client.tell(settings.broker, settings.key, Bye(f"host-{secrets.token_hex(8)}", ""))
    folder, signals = PrivateFolder(), Signals()
    watch = ClusterWatch(settings.broker, pair, monotonic())
    try:
        supervisor = Supervisor(count, settings, folder.path, _Reports(settings, watch).tell)
        try:
            _keep(count, settings.broker, supervisor, watch, signals, say)
        finally:
            supervisor.close()
    finally:
        watch.close()
        signals.close()
        folder.remove()


class _Reports:
    """Tells the cluster which workers have ended, while it answers."""

    def __init__(self, settings: WorkerSettings, watch: ClusterWatch) -> None:
        self._settings, self._watch = settings, watch
        self._failed = -1.0  # when it could not be told something last

    def tell(self, worker: str, reason: str, places: Sequence[Place]) -> None:
        settings = self._settings
        self._watch.take(monotonic())
        if self._failed > self._watch.heard:
            return
        bye = Bye(worker, reason, told_places(places))
        try:
            broker_client.tell(settings.broker, settings.key, bye, seconds=1.0)
        except ScalopsError as error:
            self._failed = monotonic()
            log.warning("the cluster was not told of that: %s", error)


def _keep(
    count: int,
    uri: str,
    supervisor: Supervisor,
    watch: ClusterWatch,
    signals: Signals,
    say: Callable[[str], None],
) -> None:
    """Keep workers going, and the cluster in view."""
    has_joined, ask_at = False, monotonic()
    while not signals.came and supervisor.final is None:
        now = monotonic()
        if now >= ask_at:
            watch.take(now)
            if now - watch.heard > _GONE_SECONDS:
                raise ConfigError(f"the cluster at {uri} has not answered for {_GONE_SECONDS:g} s")
            if not has_joined and watch.known >= count:
                has_joined = True
                say(f"joined {uri}: {count} worker{'s' * (count > 1)}")
            workers = supervisor.workers()
            # Later only those that compute: others say so themselves, or are lost.
            busy = [name for name in workers if supervisor.has_computed(name)]
            watch.ask(busy if has_joined else workers)
            ask_at = now + _ASK_SECONDS
        waiting = select.poll()
        for file in (signals.file, *supervisor.ends()):
            waiting.register(file, select.POLLIN)
        pauses = [ask_at - monotonic(), supervisor.seconds()]
        waiting.poll(max(0, ceil(min(p for p in pauses if p is not None) * 1e3)))
        supervisor.keep()
    if supervisor.final == STOPPED:
        say(f"the cluster at {uri} was stopped")
    elif supervisor.final is not None:
        raise ConfigError(
            f"the cluster at {uri} takes no worker of this host any more",
            hint="what the last one said is above",
        )
