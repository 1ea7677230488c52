"""A worker process: hosts ranks for a driver, until its standard input closes.

Started by `local_process.LocalProcess` as `python -m scalops.engine.cluster.worker_process`; the
first message on its standard input tells it what it is.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import mmap
import os
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalops.engine.blas import single_threaded
from scalops.engine.cluster.channel import ChannelSettings
from scalops.engine.cluster.messages import PROTOCOL, Hello
from scalops.engine.cluster.shared_payloads import SharedChannels, can_read_files_of
from scalops.engine.cluster.versions import own_versions
from scalops.engine.cluster.worker_loop import WorkerLoop, flush
from scalops.engine.cluster.worker_sockets import WorkerSockets
from scalops.engine.processes.messages import receive
from scalops.engine.progress import BYTES, keep_notes

LAST_WORDS_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def hello(worker: str, data: str, key: bytes = b"") -> Hello:
    """How this process introduces itself."""
    import psutil

    return Hello(
        worker=worker,
        protocol=PROTOCOL,
        versions=dict(own_versions()),
        host=socket.gethostname(),
        process=os.getpid(),
        cores=len(os.sched_getaffinity(0)),
        memory=psutil.virtual_memory().total,
        data=data,
        key=key,
        attempt=1,
    )


def detach_input() -> int:
    """The file of what was standard input; users' functions find none, and print to stderr."""
    told = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return told


def note_in(file: int) -> None:
    """Note where this process is at in the memory of a file, which is closed."""
    keep_notes(mmap.mmap(file, BYTES))
    os.close(file)


def end_with_driver(told: int, driver: int, folder: str) -> None:
    """End this process, and remove the folder, as soon as its driver is gone or says so.

    A driver that is killed cannot remove its folder: whichever of its workers is the last does.
    """
    watched = select.poll()
    watched.register(told, select.POLLIN)
    try:
        # Forks of the driver have its end of the pipe too: its own end is watched as well.
        watched.register(os.pidfd_open(driver), select.POLLIN)
        alive = os.getppid() == driver
    except ProcessLookupError:
        alive = False

    def wait() -> None:
        if alive:
            watched.poll()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=wait, name="scalops-driver", daemon=True).start()


def die_with_thread() -> None:
    """Have the system end this process, soon after the thread that started it has ended.

    Python cannot while a user's function keeps the interpreter's lock. The signal that the system
    sends then is handled by libc's `alarm`, whose argument is the signal's number, 3: after as many
    seconds, in which `end_with_driver` has cleaned up if it can, SIGALRM ends the process.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGQUIT, ctypes.cast(libc.alarm, ctypes.c_void_p))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def serve(told: Mapping[str, Any]) -> int:
    """Work for the driver; the exit code."""
    sockets = WorkerSockets(told["worker"], told["driver"], told["data"])
    channels = SharedChannels(
        told["worker"],
        ChannelSettings(**told["channel"]),
        told["token"],
        everybody=can_read_files_of(told["process"]),
    )
    module, name = told["machine"]
    machine = getattr(importlib.import_module(module), name)(told["worker"], told["settings"])
    greeting = hello(told["worker"], sockets.data)
    loop = WorkerLoop(greeting, sockets, channels, machine, told["heartbeat"])
    gc.collect()
    gc.freeze()  # what has been imported stays
    with np.errstate(all="ignore"), single_threaded():
        code = loop.run().code
    sockets.close(LAST_WORDS_SECONDS)
    return code


def main() -> None:
    """Serve until the driver goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = detach_input()
    try:
        told = receive(file).header
    except EOFError:  # the driver is gone already
        return
    if told["by_main_thread"]:  # which lives as long as the driver
        die_with_thread()
    end_with_driver(file, told["process"], told["folder"])
    note_in(told["notes"])
    sys.path[:] = told["path"]
    code = serve(told)
    flush()
    # Whatever still computes is not waited for.
    os._exit(code)


if __name__ == "__main__":
    main()
