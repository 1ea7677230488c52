"""What an iteration on two worker processes costs: a loop over 1,000 records.

    python -m benchmarks.worker_overhead [--iterations K] [--rounds K]

The loop of `benchmarks.overhead` on two workers, beside a pair of processes over ZeroMQ written by
hand, and, where they are installed, Ray's actors and Dask's workers, each with half of the records.
Goal: at most 0.3 ms per iteration.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import zmq

import scalops as so
from benchmarks.measure import Round, interleaved, report
from benchmarks.overhead import program

ROWS, WORKERS = 1_000, 2
Step = Callable[[float], float]  # the sum of cos(x + s) over all records


def part_sum(x: Any, s: float) -> float:
    """What one worker does."""
    return float(np.cos(x + s).sum())


def serve(address: str, x: Any) -> None:
    """A process of our own making: s in, the sum out, until it is empty."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(address)
        while told := socket.recv():
            s = float(np.frombuffer(told)[0])
            socket.send(np.float64(part_sum(x, s)).tobytes())


@contextmanager
def zeromq_pair(parts: list[Any]) -> Iterator[Step]:
    """Two processes over ZeroMQ, by hand."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as sockets:
        pairs, processes = [], []
        for i, part in enumerate(parts):
            socket = sockets.socket(zmq.PAIR)
            socket.bind(f"ipc://{folder}/{i}")
            process = context.Process(target=serve, args=(f"ipc://{folder}/{i}", part))
            process.start()
            pairs.append(socket)
            processes.append(process)

        def step(s: float) -> float:
            told = np.float64(s).tobytes()
            for socket in pairs:
                socket.send(told)
            return float(sum(np.frombuffer(socket.recv())[0] for socket in pairs))

        try:
            yield step
        finally:
            for socket in pairs:
                socket.send(b"")
            for process in processes:
                process.join()
            for socket in pairs:
                socket.close()


@contextmanager
def ray_actors(parts: list[Any]) -> Iterator[Step]:
    """Two of Ray's actors."""
    import ray  # type: ignore[import-not-found]

    ray.init(num_cpus=WORKERS, log_to_driver=False, include_dashboard=False)

    class Part:
        def __init__(self, x: Any) -> None:
            self.x = x

        def sum(self, s: float) -> float:
            return float(np.cos(self.x + s).sum())

    actors = [ray.remote(Part).remote(part) for part in parts]
    try:
        yield lambda s: float(sum(ray.get([a.sum.remote(s) for a in actors])))
    finally:
        ray.shutdown()


@contextmanager
def dask_workers(parts: list[Any]) -> Iterator[Step]:
    """Two of Dask's worker processes."""
    from distributed import Client, LocalCluster  # type: ignore[import-not-found]

    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        held = client.scatter(parts)

        def step(s: float) -> float:
            tasks = [client.submit(part_sum, part, s, pure=False) for part in held]
            return float(sum(client.gather(tasks)))

        yield step


def by(step: Step, iterations: int, results: dict[str, float], name: str) -> Round:
    """The loop over somebody's step."""

    def run() -> list[float]:
        s, seconds = 0.0, []
        for _ in range(iterations):
            begin = perf_counter()
            s = step(s) / ROWS
            seconds.append(perf_counter() - begin)
        results[name] = s
        return seconds

    return run


def main(arguments: list[str] | None = None) -> float:
    """Run and print; milliseconds per iteration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    x = np.random.default_rng(8).random(ROWS) * 3
    parts = np.array_split(x, WORKERS)
    results: dict[str, float] = {}
    # More than one partition, so that both workers have records: 1,000 are one by themselves.
    table = so.table({"x": x}).repartition(WORKERS)

    def ours() -> list[float]:
        outcome = program(table, ROWS, given.iterations).run()
        results["two workers"] = float(outcome.env)
        return [float(s) for s in outcome.history["seconds"].to_pylist()]

    peers = {"ZeroMQ by hand": (zeromq_pair, given.iterations)}
    if importlib.util.find_spec("ray"):
        peers["Ray actors"] = ray_actors, given.iterations // 10
    if importlib.util.find_spec("distributed"):
        peers["Dask"] = dask_workers, given.iterations // 20
    timings = []
    with so.session(workers=WORKERS, threads=1), zeromq_pair(parts) as step:
        pair = by(step, given.iterations, results, "ZeroMQ by hand")
        timings += interleaved({"two workers": ours, "ZeroMQ by hand": pair}, given.rounds)
    for name, (make, iterations) in list(peers.items())[1:]:
        with make(parts) as step:
            timings += interleaved({name: by(step, iterations, results, name)}, 2)
    np.testing.assert_allclose(results["ZeroMQ by hand"], results["two workers"], rtol=1e-12)
    title = f"two workers, {ROWS:,} records, per iteration"
    report(title, timings, "two workers", "ZeroMQ by hand", 1e-6)
    return timings[0].seconds * 1e3


if __name__ == "__main__":
    main()
