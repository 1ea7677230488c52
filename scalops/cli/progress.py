"""One line on standard error that says how far a running loop is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TextIO

_TERMINAL_SECONDS = 0.1
_PLAIN_SECONDS = 1.0


class ProgressLine:
    """Hears of events, of iterations of outermost loops above all; draws ten times a second.

    On a terminal the line is redrawn in place and disappears at the end. Elsewhere at most
    one line a second is written, and one at the end.
    """

    def __init__(self, stream: TextIO, *, is_terminal: bool) -> None:
        self._stream = stream
        self._live: Any = None
        self._is_terminal = is_terminal
        self._interval = _TERMINAL_SECONDS if is_terminal else _PLAIN_SECONDS
        # A loop shorter than one interval draws nothing, and needs no rich.
        self._drawn_at = time.monotonic()
        self._is_drawn = True
        self._loop: str | None = None
        self._number = -1
        self._scalars: dict[str, Any] = {}
        self._seconds = 0.0
        self._count = 0
        self._rows: int | None = 0
        self._workers: set[str] = set()
        self._lost: set[str] = set()
        self._back: int | None = None

    def emit(self, kind: str, **fields: Any) -> None:
        """Hear of an event, as of `engine.events.EventLog`."""
        match kind:
            case "iteration":
                self.iteration(**fields)
            case "worker_joined":
                self._workers.add(fields["worker"])
            case "worker_lost":
                self._workers.discard(fields["worker"])
                self._lost.add(fields["worker"])
            case "went_back":
                self._back = fields["iteration"]

    def iteration(
        self,
        loop: str | None,
        number: int,
        scalars: dict[str, Any],
        seconds: float,
        rows: int | None = None,
    ) -> None:
        """Note an iteration, numbered from 0, with the scalar fields after it.

        `rows` are those that it read, None where nobody knows.
        """
        if loop != self._loop or number <= self._number:
            self._loop, self._seconds, self._count, self._rows = loop, 0.0, 0, 0
        self._number, self._scalars = number, scalars
        self._seconds += seconds
        self._count += 1
        self._rows = None if rows is None or self._rows is None else self._rows + rows
        self._is_drawn = False
        now = time.monotonic()
        if now - self._drawn_at >= self._interval:
            self._drawn_at = now
            self._draw()

    def text(self) -> str:
        """The line as it is drawn."""
        name = f"{self._loop}: " if self._loop and self._loop != "<lambda>" else ""
        fields = "".join(f"  {n} {_short(v)}" for n, v in self._scalars.items())
        seconds = self._seconds / max(self._count, 1)
        return (
            f"{name}iteration {self._number + 1}{fields}{self._rate()}"
            f"  {seconds:.3g} s/iteration{self._crew()}"
        )

    def _rate(self) -> str:
        if not self._rows or not self._seconds:
            return ""
        rate = self._rows / self._seconds
        for unit in ("", "k", "M", "G"):
            if rate < 1000 or unit == "G":
                break
            rate /= 1000
        return f"  {rate:.3g}{unit} rows/s"

    def _crew(self) -> str:
        if not self._workers and not self._lost:
            return ""
        count = len(self._workers)
        lost = f", {len(self._lost)} lost" if self._lost else ""
        back = "" if self._back is None else f", went back to iteration {self._back + 1}"
        return f"  {count} worker{'' if count == 1 else 's'}{lost}{back}"

    def _draw(self) -> None:
        self._is_drawn = True
        if not self._is_terminal:
            print(self.text(), file=self._stream, flush=True)
            return
        from rich.text import Text

        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, force_terminal=True)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(self.text(), no_wrap=True, overflow="ellipsis"), refresh=True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif not self._is_terminal and not self._is_drawn:
            self._draw()


def _short(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.6g}" if isinstance(value, float) else str(value)
