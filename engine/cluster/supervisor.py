"""Keeps worker processes of a cluster going on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from scalops.engine.cluster.keys import private_folder
from scalops.engine.cluster.local_process import LocalProcess, end_all
from scalops.engine.cluster.remote_worker import MACHINE, REFUSED, STOPPED, UNANSWERED
from scalops.engine.progress import Place, shown

log = logging.getLogger("scalops")
MODULE = "scalops.engine.cluster.remote_worker"
_GRACE_SECONDS = 2.0
_FIRST_PAUSE, _MOST_PAUSE = 0.5, 30.0  # seconds before a process that failed is started again
_FUNCTION_PAUSE = 1.0  # seconds at most after the death of one that called a user's function
_FINAL = {f"exit code {code}": code for code in (REFUSED, STOPPED)}
_LONG_ENOUGH = 60.0  # seconds; who has lived so long failed by chance


@dataclass(frozen=True)
class WorkerSettings:
    """Of the worker processes of a supervisor."""

    broker: str  # its address
    key: str | None  # path of the workers' key file
    data: str  # where other workers reach them: tcp://host:*, or a folder's path for ipc
    machine: tuple[str, str] = MACHINE  # module and class of what decides in a worker
    worker: Mapping[str, Any] = field(default_factory=dict)  # what it is told
    heartbeat: float = 1.0  # seconds between two signs of life to the driver


@dataclass
class _Place:
    """One of the workers that there are to be, whichever process it is."""

    process: LocalProcess | None = None
    worker: str = ""
    folder: Path | None = None
    started: float = 0.0
    pause: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """So many worker processes, each replaced as it ends; they end with this process."""

    def __init__(
        self,
        count: int,
        settings: WorkerSettings,
        folder: Path,
        on_end: Callable[[str, str, Sequence[Place]], None],
    ) -> None:
        """`folder` is a private one, for the workers' sockets; `on_end` is told of each worker that
        has ended, why, and at what: nobody else notices a process that is killed as soon.
        """
        self.final: int | None = None  # the exit code that says that no other is wanted
        self._settings, self._folder, self._on_end = settings, folder, on_end
        self._places = [_Place() for _ in range(count)]
        self.keep()

    def ends(self) -> list[int]:
        """Files that are readable once a process has ended."""
        return [place.process.end for place in self._places if place.process is not None]

    def seconds(self) -> float | None:
        """How long `keep` has nothing to do unless a process ends."""
        at = [place.start_at for place in self._places if place.process is None]
        return None if not at else max(0.0, min(at) - monotonic())

    def workers(self) -> list[str]:
        """The names of the workers whose processes run."""
        return [place.worker for place in self._places if place.process is not None]

    def has_computed(self, worker: str) -> bool:
        """Whether a worker has used the processor since this was last asked.

        One that is silent may be busy: with imports, or a function that lets no other thread run.
        """
        process = self._process(worker)
        return process is not None and process.has_computed()

    def end(self, worker: str, reason: str) -> None:
        """End a worker; another one is started in its place."""
        for place in self._places:
            if place.process is not None and place.worker == worker:
                self._note_end(place, reason, monotonic())

    def _process(self, worker: str) -> LocalProcess | None:
        return next((p.process for p in self._places if p.worker == worker), None)

    def keep(self) -> None:
        """Start processes in place of those that have ended."""
        now = monotonic()
        for place in self._places:
            if place.process is not None and (reason := place.process.reason()) is not None:
                self._note_end(place, reason, now)
            if place.process is None and now >= place.start_at:
                self._start(place, now)

    def close(self) -> None:
        """End all."""
        ended = [(p.worker, p.process) for p in self._places if p.process is not None]
        end_all([process for _, process in ended], _GRACE_SECONDS)
        for worker, _ in ended:
            self._on_end(worker, "it was stopped", ())
        for place in self._places:
            if place.folder is not None:
                shutil.rmtree(place.folder, ignore_errors=True)
        self._places.clear()

    def _start(self, place: _Place, now: float) -> None:
        settings, name = self._settings, secrets.token_hex(8)
        data = settings.data
        if not data.startswith("tcp://"):
            # Not the worker's name, which nobody else is to know.
            place.folder = private_folder(self._folder / f"w{secrets.token_hex(4)}")
            data = f"ipc://{place.folder / 'data'}"
        told = {
            "worker": name,
            "broker": settings.broker,
            "key": settings.key,
            "data": data,
            "process": os.getpid(),
            "folder": "" if place.folder is None else str(place.folder),
            "heartbeat": settings.heartbeat,
            "machine": list(settings.machine),
            "settings": {"workers": len(self._places), **settings.worker},
        }
        place.process, place.worker, place.started = LocalProcess(told, MODULE), name, now

    def _note_end(self, place: _Place, reason: str, now: float) -> None:
        assert place.process is not None
        found = place.process.places()
        place.process.kill()  # gives back what is held of it
        place.process = None
        if place.folder is not None:
            shutil.rmtree(place.folder, ignore_errors=True)
            place.folder = None
        if reason == "exit code 0":
            place.pause = place.start_at = 0.0
            return
        if reason in _FINAL:  # it has said why, and the cluster knows
            self.final, place.start_at = _FINAL[reason], now + _MOST_PAUSE
            return
        log.warning("the worker %s ended: %s%s", place.worker, reason, shown(found))
        self._on_end(place.worker, reason, found)
        if now - place.started > _LONG_ENOUGH:
            place.pause = 0.0
        most = _FUNCTION_PAUSE if any(p.function for p in found) else _MOST_PAUSE
        place.pause = min(most, max(_FIRST_PAUSE, 2 * place.pause))
        if reason == f"exit code {UNANSWERED}":
            place.pause = max(place.pause, 5.0)
        place.start_at = now + place.pause
