"""The file of `scalops run --log-file`: what happens, as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import click

from scalops.cli.results_json import plain

log = logging.getLogger("scalops")


class EventFile:
    """Appends each event as one line, at once: `time` (ISO 8601, UTC), `event`, its fields.

    The values are as in `--json`. A usage error where the file cannot be opened. One that cannot
    be written any more is given up with a warning: the run goes on.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise click.BadOptionUsage(
                "log_file", f"The log file {path!r} cannot be opened: {error.strerror or error}."
            ) from None

    def emit(self, kind: str, **fields: Any) -> None:
        """Write an event."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "event": kind, **plain(fields)}, ensure_ascii=False)
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("no more is written to %s: %s", self._path, error.strerror or error)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # the same again: what was not written is lost
            self._file.close()

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._close()
