"""How worker processes are started: their command and their environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR")


def command(module: str) -> list[str]:
    """The command that runs a module of this package in a fresh interpreter."""
    # -P: the folder it happens to start in is no place to import from.
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """The driver's environment, and what makes workers agree with it."""
    made = dict(os.environ)
    # The worker finds this package where the driver did, and then takes over the driver's path.
    root = str(Path(__file__).parents[3])
    given = made.get("PYTHONPATH")
    made["PYTHONPATH"] = root if not given else f"{given}{os.pathsep}{root}"
    # Workers must agree on the order of sets.
    made.setdefault("PYTHONHASHSEED", "0")
    made.pop("SCALOPS_PROCESSES", None)
    # The workers are the parallelism; and a sum must not depend on how many threads add it up.
    made.update({f"{name}_NUM_THREADS": "1" for name in _THREADS})
    return made
