"""Three "hosts" on one machine: a cluster over TCP with keys, and one host dies half-way.

python examples/three_hosts.py               as root: a network namespace for each host
python examples/three_hosts.py --cut         as root: the host lives, its link is cut
python examples/three_hosts.py --processes   three workers on 127.0.0.1, as anybody

The hosts are joined by a bridge. A broker runs on the first, a worker on each, and a driver on the
first trains a model. Once half of the iterations are done the third host dies; the result has the
bits of a run in one process all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import IO, Any, Protocol

import numpy as np
import psutil

import scalops as so

ROWS, FEATURES, ITERATIONS = 60_000, 20, 40
HOSTS, DOOMED = 3, 2  # how many, and the number of the one that dies
HALF_WAY = "half of the iterations are done"
CANNOT = 2  # exit code
END_SECONDS = 5.0  # for processes that are told to end
SCALOPS = (sys.executable, "-c", "from scalops.cli import main; main()")
Command = Sequence[str]


# The driver.


class Model(so.Environment):
    """The weights and the loss."""

    w: np.ndarray
    loss: float


def records() -> so.Table:
    """`x` float64[20], `y` -1 or 1, in 12 partitions."""
    random = np.random.default_rng(7)
    x = random.normal(size=(ROWS, FEATURES))
    noise = random.logistic(size=ROWS)
    y = np.where(x @ np.linspace(-1, 1, FEATURES) + noise > 0, 1.0, -1.0)
    return so.table({"x": x, "y": y}).repartition(12)


def training() -> Any:
    """Logistic regression by gradient descent, as a loop."""
    xy = records()

    @so.loop(Model(w=np.zeros(FEATURES), loss=np.inf), range(ITERATIONS))
    def model(env: Model, i: Any) -> Model:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        env.loss = xy.mean(lambda r: np.log1p(np.exp(-margin(r))))
        env.w -= xy.mean(lambda r: -r.y * r.x / (1 + np.exp(margin(r))))
        return env

    return model


class Told:
    """Prints what happens to workers."""

    def __init__(self) -> None:
        self.joined = self.lost = 0
        self.since = 0.0  # when the host died

    def emit(self, kind: str, **fields: Any) -> None:
        """As of `EventLog`."""
        match kind:
            case "worker_joined":
                self.joined += 1
            case "worker_lost":
                self.lost += 1
                ranks = ", ".join(map(str, fields["ranks"]))
                after = f"lost after {monotonic() - self.since:.1f} s"
                say(f"{after}: worker {fields['worker']}, rank {ranks}: {fields['reason']}")
            case "recovered":
                say(f"recovered in {fields['seconds']:.1f} s; the loop goes on")


def drive(uri: str, key: str) -> int:
    """Train on the cluster and in this process; 0 where the bits are the same."""
    told = Told()

    def pause(iteration: int, env: Any) -> None:
        if iteration == 0:
            say(f"training on {told.joined} workers")
        if iteration + 1 == ITERATIONS // 2:
            say(HALF_WAY)
            sys.stdin.readline()  # until the host is dead
            told.since = monotonic()

    with so.session(uri, key=key, fan_in=2) as session:
        session.events = told
        ours = training().run(on_iteration=pause).env
        left = session.attached
    with so.session(workers=0):
        alone = training().run().env
    same = ours.w.tobytes() == alone.w.tobytes() and ours.loss == alone.loss
    say(f"workers: {told.joined}, lost: {told.lost}, left: {left}; loss {ours.loss:.6f}")
    say(f"same bits as in one process: {'yes' if same else 'NO'}")
    return 0 if same and told.lost == 1 else 1


# The hosts.


class Network(Protocol):
    """Some hosts, numbered from 0."""

    bind: str  # where the broker serves, on host 0

    def on(self, host: int, command: Command) -> Command:
        """The command that runs `command` on a host."""
        ...

    def kill(self, host: int) -> str:
        """Have a host die; how."""
        ...

    def end(self) -> None:
        """Kill all processes of all hosts."""
        ...


class Namespaces:
    """Hosts as network namespaces, on a bridge in one of its own.

    No interface of this machine takes part, so that any subnet is free.
    """

    bind = "tcp://10.77.0.1:5570"

    def __init__(self, cut: bool) -> None:
        self._cut = cut
        self._names = [f"scalops-{os.getpid()}-host{i + 1}" for i in range(HOSTS)]
        self._bridge = f"scalops-{os.getpid()}-bridge"

    def __enter__(self) -> Namespaces:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        bridge = self._bridge
        ip("netns", "add", bridge)
        ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
        ip("-n", bridge, "link", "set", "bridge", "up")
        for i, name in enumerate(self._names):
            port = f"port{i + 1}"
            ip("netns", "add", name)
            ends = (port, "netns", bridge, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "add", *ends)
            ip("-n", bridge, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def on(self, host: int, command: Command) -> Command:
        """As of `Network`."""
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', f"host{host + 1}")
        return ("ip", "netns", "exec", self._names[host], *named, *command)

    def kill(self, host: int) -> str:
        """As of `Network`."""
        if self._cut:
            ip("-n", self._names[host], "link", "set", "eth0", "down")
            return "its link is down"
        return f"{end_all(self._processes(host))} processes killed"

    def _processes(self, host: int) -> list[int]:
        return [int(p) for p in ip("netns", "pids", self._names[host]).split()]

    def end(self) -> None:
        """As of `Network`."""
        for host in range(HOSTS):
            end_all(self._processes(host))

    def __exit__(self, *_: object) -> None:
        for name in (*self._names, self._bridge):
            with contextlib.suppress(OSError):  # it was never made
                ip("netns", "delete", name)


class Processes:
    """Hosts as groups of processes of this one."""

    bind = "tcp://127.0.0.1:*"

    def __enter__(self) -> Processes:
        return self

    def on(self, host: int, command: Command) -> Command:
        """As of `Network`."""
        return ("env", f"SCALOPS_EXAMPLE_HOST={os.getpid()}.{host}", *command)

    def kill(self, host: int) -> str:
        """As of `Network`."""
        return f"{end_all(self._processes(host))} processes killed"

    def _processes(self, host: int) -> list[int]:
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended
                if child.environ().get("SCALOPS_EXAMPLE_HOST") == f"{os.getpid()}.{host}":
                    found.append(child.pid)
        return found

    def end(self) -> None:
        """As of `Network`."""
        for host in range(HOSTS):
            end_all(self._processes(host))

    def __exit__(self, *_: object) -> None:
        pass  # the machine stays as it is


def ip(*arguments: str) -> str:
    """What `ip` prints. Raises OSError where it does not do what it is told."""
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def end_all(processes: Sequence[int]) -> int:
    """Kill processes; how many there were."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(processes)


# What happens.


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


class Started:
    """Processes on hosts, with their input and output as pipes; none is left at the end."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._all: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Started:
        return self

    def start(self, host: int, *arguments: str, program: Command = SCALOPS) -> Any:
        """Start one."""
        command = self._network.on(host, (*program, *arguments))
        made = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        self._all.append(made)
        return made

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._all):  # the broker last
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        self._network.end()
        for process in self._all:
            with process:  # waits, and closes its pipes
                pass


def run(network: Network, folder: Path) -> int:
    """The whole story; the exit code."""
    own = str(folder / "cluster")
    with Started(network) as processes:
        cluster = ("cluster", "start", "--workers", "0", "--foreground", "--folder", own)
        uri = line_of(processes.start(0, *cluster, "--bind", network.bind).stdout)
        say(f"host 1 serves the cluster {uri}")
        for host in range(HOSTS):
            name = f"host{host + 1}"
            create = ("keys", "create", name, "--role", "worker", "--folder", own)
            subprocess.run((*SCALOPS, *create), check=True, stdout=subprocess.DEVNULL)
            processes.start(host, "worker", "--connect", uri, "--key", f"{own}/{name}.secret")
            say(f"host {host + 1} lends a worker, with a key of its own")
        key = f"{own}/driver.secret"
        wait_for_workers(network, uri, key)
        driver = processes.start(0, "--driver", uri, key, program=(sys.executable, __file__))
        while line := driver.stdout.readline():
            say(f"driver: {line.rstrip()}")
            if line.rstrip() == HALF_WAY:
                say(f"host {DOOMED + 1} dies: {network.kill(DOOMED)}")
                driver.stdin.write("\n")
                driver.stdin.flush()
        code: int = driver.wait()
        return code


def line_of(output: IO[str]) -> str:
    """The next line; ends this program where there is none."""
    line = output.readline().strip()
    if not line:
        raise SystemExit("a process of the cluster ended; it has said why")
    return line


def wait_for_workers(network: Network, uri: str, key: str) -> None:
    """Until each host has a worker in the cluster, and show them."""
    status = ("cluster", "status", "--connect", uri, "--key", key)
    for _ in range(60):
        command = network.on(0, (*SCALOPS, *status))
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if len(shown.splitlines()) == HOSTS + 2:  # a title and the names of columns
            say(shown.rstrip())
            return
    raise SystemExit("the workers have not come")


def missing() -> str | None:
    """What network namespaces lack here."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in ("ip", "unshare", "hostname") if shutil.which(name) is None]
    return f"there is no {' nor '.join(absent)}" if absent else None


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Have SIGTERM raise, so that nothing is left behind."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", action="store_true", help="without namespaces")
    parser.add_argument("--cut", action="store_true", help="cut the link, kill nobody")
    parser.add_argument("--driver", nargs=2, metavar=("URI", "KEY"), help="be the driver")
    given = parser.parse_args(arguments)
    if given.driver:
        return drive(*given.driver)
    if given.processes and given.cut:
        parser.error("--cut needs namespaces: processes of one host have no link between them")
    if not given.processes and (why := missing()) is not None:
        say(f"{why}; --processes does without")
        return CANNOT
    made: Any = Processes() if given.processes else Namespaces(given.cut)
    with ended_in_order(), tempfile.TemporaryDirectory(prefix="scalops-") as folder:
        os.environ["TMPDIR"] = folder  # so that of a host that is killed nothing is left either
        with made as network:
            return run(network, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
