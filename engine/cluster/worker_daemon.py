"""Workers of this host for a cluster whose broker runs elsewhere: `scalops worker`."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket as sockets
from contextlib import suppress
from math import ceil
from pathlib import Path

from scalops.algebra.errors import ScalopsError
from scalops.engine.cluster import broker_client
from scalops.engine.cluster.keys import read_secret
from scalops.engine.cluster.messages import Bye
from scalops.engine.cluster.private_folder import PrivateFolder
from scalops.engine.cluster.security import require_transport, require_welcome
from scalops.engine.cluster.supervisor import Supervisor, WorkerSettings

log = logging.getLogger("scalops")


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


def run_workers(count: int, settings: WorkerSettings) -> None:
    """Keep workers of a cluster going until SIGTERM or SIGINT.

    Raises: ConfigError, SecurityError.
    """
    pair = None if settings.key is None else read_secret(Path(settings.key))
    require_transport(settings.broker, pair)
    require_welcome(settings.broker, pair, settings.key)

    def report(worker: str, reason: str) -> None:
        try:
            broker_client.tell(settings.broker, settings.key, Bye(worker, reason), seconds=2.0)
        except ScalopsError as error:
            log.warning("the cluster was not told of that: %s", error)

    folder, signals = PrivateFolder(), Signals()
    try:
        supervisor = Supervisor(count, settings, folder.path, report)
        try:
            while not signals.came:
                waiting = select.poll()
                for file in (signals.file, *supervisor.ends()):
                    waiting.register(file, select.POLLIN)
                seconds = supervisor.seconds()
                waiting.poll(None if seconds is None else ceil(seconds * 1e3))
                supervisor.keep()
        finally:
            supervisor.close()
    finally:
        signals.close()
        folder.remove()
