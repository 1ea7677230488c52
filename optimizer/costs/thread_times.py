"""How long work takes on several threads, on processes, and where memory is what limits it."""

from __future__ import annotations

from scalops.optimizer.costs.amounts import Amounts
from scalops.optimizer.costs.machine import Machine

LOCKED = frozenset(("record",))  # rates of what Python does, holding the interpreter's lock
PRODUCTS = frozenset(("product", "product_vector"))


def amount_seconds(amounts: Amounts, machine: Machine) -> float:
    """Σ amount / rate; Σ amount · seconds where the rate is a time. Of one thread."""
    total = 0.0
    for name, amount in amounts.items():
        rate = machine.rates[name]
        total += amount * rate.value if rate.unit == "s" else amount / rate.value
    return total


def divided(amounts: Amounts, machine: Machine) -> tuple[float, float, float]:
    """Seconds of one thread: of products of matrices, of other kernels, and holding the lock."""
    products = {n: a for n, a in amounts.items() if n in PRODUCTS}
    locked = {n: a for n, a in amounts.items() if n in LOCKED}
    others = {n: a for n, a in amounts.items() if n not in PRODUCTS | LOCKED}
    of_products, of_others, held = (amount_seconds(a, machine) for a in (products, others, locked))
    return of_products, of_others, held


def read_seconds(read_bytes: float, threads: float, machine: Machine) -> float:
    """Seconds of one thread to read from memory, where `threads` do: bytes / min(r, R / t).

    r is what one thread reads, R what all of them read together.
    """
    return read_bytes / min(machine["read"], machine["read_all"] / max(1.0, threads))


def on_threads(free: float, held: float, calls: float, threads: float, machine: Machine) -> float:
    """max(H, (F + H) / t) + c·L·(t − 1) / t: seconds on t threads of one process.

    `free` seconds F let go of the interpreter's lock, `held` H do not; each of c `calls` costs two
    threads L more, since a thread that waits for the lock is woken late. Of less than one thread,
    where workers share cores, (F + H) / t.
    """
    if threads <= 1:
        return (free + held) / threads
    contended = calls * machine["lock"] * (threads - 1) / threads
    return max(held, (free + held) / threads) + contended


def on_processes(
    free: float, held: float, processes: float, passed_bytes: float, machine: Machine
) -> float:
    """(F + H) / p + bytes / link + a pass: seconds on p processes over shared memory."""
    passed = passed_bytes / machine["link"]
    return (free + held) / processes + passed + machine["process_pass"]
