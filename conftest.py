"""Keep pytest to the importable names: `pytest scalops/algebra`, never `pytest algebra`."""

import gc
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# Worker processes take longer to start than most tests run: those that need them ask for them.
os.environ.setdefault("SCALOPS_PROCESSES", "0")

# What costs are computed with is not what this machine has been measured to do.
_profiles = tempfile.TemporaryDirectory(prefix="scalops-test-profiles-")
os.environ["SCALOPS_PROFILES"] = _profiles.name

# Each is collected through its link in scalops/.
collect_ignore = ["algebra", "engine", "optimizer"]


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a path that would import our modules under a second name."""
    for argument in config.args:
        # Not resolved: the link is the name that is wanted.
        path = Path(os.path.abspath(config.invocation_params.dir / argument.partition("::")[0]))
        if path.is_relative_to(config.rootpath):
            inside = path.relative_to(config.rootpath)
            if inside.parts[:1] and inside.parts[0] in collect_ignore:
                raise pytest.UsageError(f"{inside} is imported as scalops/{inside}: name that path")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[Any], list[Any]]:
    """Look for examples in docstrings only where there are some.

    To find none takes as long as to import the module.
    """
    collectors = yield
    if file_path.suffix != ".py" or ">>>" in file_path.read_text(encoding="utf-8"):
        return collectors
    return [one for one in collectors if type(one) is pytest.Module]  # no subclass: doctest's


def pytest_collection_finish() -> None:
    """Leave the thousands of collected tests out of every later garbage collection.

    What the tests themselves make is collected as ever.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Remove what tests have stored of this machine."""
    _profiles.cleanup()
