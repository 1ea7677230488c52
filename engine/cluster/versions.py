"""What must be the same on driver and workers for results to have the same bits.

Versions of the packages that compute, the kernels that BLAS and NumPy choose for the processor,
and the C library, whose functions some of NumPy's call.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from typing import Any

# Of the packages that need not be installed: one side's is as good as none on the other.
_ABSENT = "not installed"
_PACKAGES = ("scalops", "numpy", "scipy", "numba", "pyarrow", "cloudpickle")


@cache
def own_versions() -> Mapping[str, str]:
    """The versions of this process, by name. Imports NumPy and SciPy's BLAS."""
    found = {name: _version(name) for name in _PACKAGES}
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        **found,
        **_blas(),
        "processor features": _processor_features(),
        "machine": f"{platform.machine()}, {sys.byteorder} endian",
        "C library": " ".join(platform.libc_ver()).strip() or platform.system(),
    }


def differences(driver: Mapping[str, str], worker: Mapping[str, str]) -> list[str]:
    """What differs, as "numpy 2.3.1 on the driver, 2.4.0 on the worker"; empty: nothing."""
    names = [*driver, *(name for name in worker if name not in driver)]
    return [
        f"{name} {driver.get(name, 'unknown')} on the driver, "
        f"{worker.get(name, 'unknown')} on the worker"
        for name in names
        if driver.get(name) != worker.get(name)
    ]


def refusal(
    own: tuple[str, int, Mapping[str, str]], other: tuple[str, int, Mapping[str, str]]
) -> str | None:
    """Why a driver cannot use a worker, both sides named; None where it can.

    Each side is its name, the version of its protocol, and its versions.
    """
    (driver, speaks, versions), (worker, understands, its) = own, other
    if speaks != understands:
        return (
            f"the worker {worker} speaks protocol {understands}, the driver {driver} "
            f"protocol {speaks}; install the same version of scalops on both"
        )
    found = differences(versions, its)
    if not found:
        return None
    return (
        f"the worker {worker} would not give the bits of the driver {driver}: "
        f"{'; '.join(found)}; install the same versions on both, on processors of one kind"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return _ABSENT


def _blas() -> dict[str, str]:
    """Each BLAS that NumPy and SciPy use: version and the core its kernels are for."""
    import scipy.linalg  # noqa: F401  (its BLAS is another library than NumPy's)
    from threadpoolctl import threadpool_info

    found: list[dict[str, Any]] = [i for i in threadpool_info() if i["user_api"] == "blas"]
    described = sorted(
        f"{item.get('internal_api')} {item.get('version')} {item.get('architecture') or ''}".strip()
        for item in found
    )
    return {"BLAS": ", ".join(described) or "unknown"}


def _processor_features() -> str:
    """The features of the processor for which NumPy has kernels of their own, and uses them."""
    compiled = import_module("numpy._core._multiarray_umath")
    there: dict[str, bool] = getattr(compiled, "__cpu_features__", {})
    used = [
        *getattr(compiled, "__cpu_baseline__", ()),
        *(f for f in getattr(compiled, "__cpu_dispatch__", ()) if there.get(f)),
    ]
    return " ".join(used) or "none"
