"""How partial results of many ranks meet: along trees, at one rank, or at the driver.

    python -m benchmarks.trees [--megabytes M ...] [--ranks N ...] [--processes P] [--iterations K]

Worker processes of this machine, with the cluster's own sockets, channels and rank jobs; each rank
sends a partial of so many bytes, which is there already, and adds what it receives: nothing but the
way up is measured. Of more ranks than processes each process hosts several, in turn, as a session's
workers do after losses. Beside each time stands what the optimizer's model says of it
(`optimizer/costs/trees.py`). Goal: a tree beats the driver from 8 ranks on, for 1 MB.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
import psutil

from benchmarks.measure import ROWS, Row, interleaved
from scalops.engine.cluster.hub import Arrived, Left
from scalops.engine.cluster.local_hub import LocalHub, LocalSettings
from scalops.engine.cluster.messages import Begin, Command, Failed, Members, Replied
from scalops.engine.cluster.rank_machine import WorkerMachine
from scalops.engine.collective import Piece, Program, Ranks, Receive, Send
from scalops.optimizer.costs.trees import Reduction, links_of
from scalops.profiles import machine

FAN_INS = (2, 3, 4, 8)
AT_RANK, AT_DRIVER = "flat, rank 0", "flat, driver"
JOB = 1


def up_the_tree(ranks: Ranks, own: Any) -> Program[Piece | None]:
    """One reduction at a rank: what the root has is replied to the driver."""
    total = own
    for child in ranks.children:
        piece = yield Receive(child)
        added = piece.buffers[0].view(np.float64)
        # The first sum is a new array: the own partial is wanted again.
        total = np.add(total, added, out=None if total is own else total)
    if ranks.parent is None:
        return Piece(None, [total])
    yield Send(ranks.parent, Piece(None, [total]))
    return None


def as_it_is(ranks: Ranks, own: Any) -> Program[Piece | None]:
    """Every rank's partial goes to the driver."""
    yield from ()
    return Piece(None, [own])


PROGRAMS = {"tree": up_the_tree, "driver": as_it_is}


class Partials:
    """What a worker holds for its ranks, in place of shares of a plan: one array for all."""

    may_block = False

    def __init__(self) -> None:
        self._own = np.empty(0)

    def begin(self, ranks: Ranks, buffers: Any, *settings: Any) -> Callable[..., Any]:
        """As of `JobShares`."""

        def start(command: Command, given: Any) -> Program[Piece | None]:
            if self._own.nbytes != command.arguments:
                self._own = np.ones(command.arguments // 8)
            return PROGRAMS[command.verb](ranks, self._own)

        return start

    def gone(self, rank: int) -> tuple[str, ...]:
        """As of `JobShares`."""
        return ()

    def held(self) -> tuple[int, int]:
        """As of `JobShares`."""
        return self._own.nbytes, 0

    def catch_up(self, rank: int, commands: Any) -> None:
        """As of `JobShares`: there is nothing to catch up with."""

    def cancel(self) -> None:
        """As of `JobShares`: nothing takes long."""

    def finish(self) -> None:
        """As of `JobShares`: the partial stays."""


class PartialsMachine(WorkerMachine):
    """A worker whose ranks hold partial results and no plan."""

    def __init__(self, worker: str, settings: Mapping[str, Any]) -> None:
        super().__init__(worker, settings)
        self._shares: Any = Partials()


class Bench:
    """Worker processes and the driver's side of reductions on them."""

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub
        self._epochs, self._op = count(1), 0
        self._epoch = 0
        self.sum = 0.0  # of the last reduction, in its first place

    def begin(self, size: int, fan_in: int) -> None:
        """Give `size` ranks to the workers, in turn."""
        self._epoch, self._op = next(self._epochs), 0
        workers = self._hub.workers()
        hosts = [workers[rank % len(workers)] for rank in range(size)]
        for rank, host in enumerate(hosts):
            begin = Begin(JOB, self._epoch, rank, size, (fan_in,), False, 0.0)
            self._hub.channels.send(host.worker, begin)
        told = tuple((rank, host.worker, host.data, host.key) for rank, host in enumerate(hosts))
        self._names = {host.worker for host in hosts}
        for name in self._names:
            self._hub.channels.send(name, Members(JOB, self._epoch, told))

    def reduce(self, verb: str, size: int, replies: int) -> None:
        """Run one reduction, and add up the replies."""
        self._op += 1
        for name in self._names:
            self._hub.channels.send(
                name, Command(JOB, self._epoch, self._op, verb, size, (), False)
            )
        total: Any = None
        while replies:
            for event in self._hub.pump(None):
                match event:
                    case Left(reason=reason):
                        raise SystemExit(f"a worker was lost: {reason}")
                    case Arrived(message=message) if isinstance(message.body, Failed):
                        raise SystemExit(f"a rank failed: {message.body.error}")
                    case Arrived(message=message) if isinstance(message.body, Replied):
                        found = message.buffers[0].view(np.float64)
                        total = found.copy() if total is None else np.add(total, found, out=total)
                        replies -= 1
        self.sum = float(total[0])

    def way(self, ranks: int, size: int, iterations: int, fan_in: int | None) -> list[float]:
        """Seconds of each of some reductions; without a fan-in by the driver alone."""
        self.begin(ranks, fan_in or ranks)
        verb, replies = ("driver", ranks) if fan_in is None else ("tree", 1)
        seconds = []
        for _ in range(iterations + 1):
            begin = perf_counter()
            self.reduce(verb, size, replies)
            seconds.append(perf_counter() - begin)
            assert self.sum == ranks
        return seconds


@contextmanager
def bench(processes: int) -> Iterator[Bench]:
    """So many worker processes."""
    hub = LocalHub(processes, LocalSettings(machine=("benchmarks.trees", "PartialsMachine")))
    try:
        while len(hub.workers()) < processes:
            for event in hub.pump(1.0):
                if isinstance(event, Left):
                    raise SystemExit(f"a worker did not start: {event.reason}")
        yield Bench(hub)
    finally:
        hub.close()


def predicted(name: str, fan_in: int | None, ranks: int, size: int) -> float:
    """Seconds by the optimizer's model."""
    made = Reduction(ranks, size, links_of(machine()))
    return made.flat() if fan_in is None else made.tree((fan_in,))


def compared(made: Bench, ranks: int, size: int, iterations: int, rounds: int) -> float:
    """Print one line for each way; the ratio of the best tree to the driver alone."""
    fan_ins: dict[str, int | None] = {f"fan-in {f}": f for f in FAN_INS if f < ranks}
    fan_ins |= {AT_RANK: ranks, AT_DRIVER: None}
    ways = {
        name: lambda fan_in=fan_in: made.way(ranks, size, iterations, fan_in)
        for name, fan_in in fan_ins.items()
    }
    timings = {t.name: t.seconds for t in interleaved(ways, rounds)}
    flat = timings[AT_DRIVER]
    model = {name: predicted(name, fan_in, ranks, size) for name, fan_in in fan_ins.items()}
    for name, seconds in timings.items():
        print(
            f"  {ranks:>3} ranks  {name:<13} {seconds * 1e3:10.2f} ms  {seconds / flat:6.2f}"
            f"     model {model[name] * 1e3:10.2f} ms  {model[name] / model[AT_DRIVER]:6.2f}"
        )
    trees = [name for name in timings if name not in (AT_RANK, AT_DRIVER)] or [AT_RANK]
    best = min(trees, key=timings.__getitem__)
    title = f"partials of {size / 1e6:g} MB from {ranks} ranks, {best}"
    ROWS.append(Row(title, timings[best] * 1e3, AT_DRIVER, timings[best] / flat, None, None))
    return timings[best] / flat


def main(arguments: list[str] | None = None) -> dict[tuple[float, int], float]:
    """Run and print; the ratios of the best tree to the driver alone, by megabytes and ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1.0, 64.0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    ratios = {}
    for megabytes in given.megabytes:
        size = round(megabytes * 1e6) // 8 * 8
        print(f"\npartials of {megabytes:g} MB; ratios to {AT_DRIVER}")
        for ranks in given.ranks:
            # On their way all partials may be there twice, and each process has its own.
            needed = (2 * ranks + 2 * given.processes) * size
            if needed > psutil.virtual_memory().available:
                print(f"  {ranks:>3} ranks  left out: it may take {needed / 1e9:.1f} GB")
                continue
            with bench(min(ranks, given.processes)) as made:
                ratios[megabytes, ranks] = compared(
                    made, ranks, size, given.iterations, given.rounds
                )
    return ratios


if __name__ == "__main__":
    main()
