"""Whether other processes keep this machine busy: what is measured then says little."""

from __future__ import annotations

import os

_BUSY = 0.5  # processes that want a core, for each core


def busy_text(cores: int) -> str:
    """Of a busy machine a few words that say so, else nothing."""
    load = os.getloadavg()[0]
    if load <= cores * _BUSY:
        return ""
    return f"this machine is busy: a load of {load:.1f} on {cores} cores in the last minute"
