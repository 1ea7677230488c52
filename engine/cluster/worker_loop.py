"""A worker's loop: moves messages between its sockets and its machine, and has it compute."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

import numpy as np

from scalops.engine.cluster.actions import (
    Action,
    Arrived,
    Compute,
    Computed,
    Emit,
    Event,
    Exit,
    Meet,
    Outcome,
    Tick,
)
from scalops.engine.cluster.channel import Channels, Message
from scalops.engine.cluster.leases import Leases
from scalops.engine.cluster.messages import Bye, Hello, Members, Ping, Refused, Shutdown, Welcome
from scalops.engine.cluster.worker_sockets import DRIVER, WorkerSockets


class Machine(Protocol):
    """What decides: `rank_machine.WorkerMachine`.

    Compute threads put what is to be done at once into `urgent`, and call `wake`.
    """

    urgent: deque[Action]
    wake: Callable[[], None]

    def handle(self, event: Event, now: float) -> list[Action]:
        """What is to be done now that this has happened."""
        ...


class ComputeThread:
    """Calls functions one after the other; `wake` is called as each has ended."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._calls: queue.SimpleQueue[Compute] = queue.SimpleQueue()
        self.done: deque[Computed] = deque()
        threading.Thread(target=self._run, name="scalops-compute", daemon=True).start()

    def start(self, compute: Compute) -> None:
        """Have it called."""
        self._calls.put(compute)

    def _run(self) -> None:
        process = os.getpid()
        with np.errstate(all="ignore"):  # which is a thread's own
            while True:
                compute = self._calls.get()
                computed = called(compute)
                if os.getpid() != process:  # a fork that a function made: it has no part in this
                    os._exit(0)
                self.done.append(computed)
                del compute, computed  # they hold a partition's records
                self._wake()


def called(compute: Compute) -> Computed:
    """What a call gives, or raises, whatever that is."""
    try:
        outcome = Outcome(compute.call(), None)
    except BaseException as error:
        outcome = Outcome(None, error)
    if not compute.quick:  # those call no users' functions
        flush()
    return Computed(compute.ticket, outcome)


def flush() -> None:
    """Pass on what users' functions have printed."""
    for stream in (sys.stdout, sys.stderr):
        # A function may have closed or replaced it.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


class WorkerLoop:
    """Runs until something ends the worker; then `run` gives the exit code."""

    def __init__(
        self,
        hello: Hello,
        sockets: WorkerSockets,
        channels: Channels,
        machine: Machine,
        heartbeat: float,
    ) -> None:
        """`heartbeat`: seconds between two ticks of the machine, in which it tells that it lives"""
        self._own, self._hello = hello.worker, hello
        self._sockets, self._channels, self._machine = sockets, channels, machine
        self._compute = ComputeThread(sockets.wake)
        machine.wake = sockets.wake
        self._heartbeat = heartbeat
        self._tick_at = monotonic()
        self._lease: Leases | None = None
        self._exit: Exit | None = None
        self._to_itself: deque[list[bytes]] = deque()  # frames from a rank to another one here

    def run(self) -> Exit:
        """Greet the driver, and work until the end."""
        self._channels.open(DRIVER)
        self._channels.send(DRIVER, self._hello)
        while self._exit is None:
            self._sockets.wait(self._seconds())
            now = monotonic()
            for peer, frames in self._sockets.received():
                for message in self._channels.arrived(peer, frames, now):
                    self._take(peer, message, now)
            while self._to_itself:
                frames = self._to_itself.popleft()
                for message in self._channels.arrived(self._own, frames, now):
                    self._take(self._own, message, now)
            for peer, why in self._channels.broken.items():
                self._exit = Exit(1, f"the messages of {peer} make no sense: {why}")
            self._carry_out(self._machine.urgent, now)
            while self._compute.done:
                computed = self._compute.done.popleft()
                self._carry_out(self._machine.urgent, now)  # what it had said before its end
                self._handle(computed, now)
            if now >= self._tick_at:
                self._tick(now)
            self._transmit(now)
        self._channels.send(DRIVER, Bye(self._own, self._exit.reason))
        self._transmit(monotonic())
        return self._exit

    def _transmit(self, now: float) -> None:
        for peer, frames in self._channels.outgoing(now):
            if peer == self._own:
                # Copied, as by a socket: who receives an array may keep it, who sent it change it.
                self._to_itself.append([bytes(part) for part in frames])
            else:
                self._sockets.transmit(peer, frames)

    def _seconds(self) -> float:
        """How long nothing has to be done unless something comes."""
        if self._to_itself:
            return 0.0
        deadline = self._channels.deadline()
        at = self._tick_at if deadline is None else min(deadline, self._tick_at)
        return max(0.0, at - monotonic())

    def _take(self, peer: str, message: Message, now: float) -> None:
        match message.body:
            case Welcome(lease=lease) if peer == DRIVER:
                self._lease = Leases(lease, self._heartbeat) if lease else None
            case Refused(reason=reason) | Shutdown(reason=reason) if peer == DRIVER:
                self._exit = Exit(0, reason)
            case Ping():
                pass  # to have been heard is all
            case _:
                self._handle(Arrived(peer, message), now)
        if peer == DRIVER and self._lease is not None:
            self._lease.heard(DRIVER)

    def _tick(self, now: float) -> None:
        self._tick_at = now + self._heartbeat
        self._handle(Tick(), now)
        lease = self._lease
        if lease is not None and any(lease.is_over(silent) for _, silent in lease.judge(now)):
            self._exit = Exit(0, f"no word from the driver for {lease.lease:g} s")

    def _handle(self, event: Event, now: float) -> None:
        self._carry_out(deque(self._machine.handle(event, now)), now)

    def _carry_out(self, actions: deque[Action], now: float) -> None:
        while actions:
            match actions.popleft():
                case Emit(peer, body, buffers):
                    self._channels.send(peer, body, buffers)
                case Compute(quick=True) as compute:
                    self._transmit(now)  # others may wait for what has been said
                    actions.extend(self._machine.handle(called(compute), now))
                case Compute() as compute:
                    self._compute.start(compute)
                case Meet(members):
                    self._meet(members)
                case Exit() as end:
                    self._exit = end

    def _meet(self, members: Members) -> None:
        others = {h[1]: (h[2], h[3]) for h in members.hosts if h[1] != self._own}
        self._sockets.meet(others)
        for name in others:
            self._channels.open(name)
