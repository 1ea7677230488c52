"""Hostile programs: each ends in its named error, on the user's line, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import scalops as so
from scalops import tracing
from tests.language.attacks import (
    data,
    files,
    folds,
    loops,
    opaque_functions,
    options,
    row_functions,
    values,
)
from tests.language.attacks.table import ATTACKS, Attack, T

KINDS = (row_functions, opaque_functions, folds, loops, values, data, files, options)
MOST_SECONDS = 30


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One session for all attacks; its worker processes end with it."""
    before = set(psutil.Process().children(recursive=True))
    with so.session(threads=2):
        assert T.map(lambda r: r.a * 2).sum().collect() == 12.0
        yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def alarm() -> Iterator[None]:
    """An attack that hangs fails."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.program.__name__)
@pytest.mark.usefixtures("alarm")
def test_an_attack_ends_in_its_error(attack: Attack, tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    with pytest.raises(so.ScalopsError) as caught:
        attack.program(tmp_path)
    error = caught.value
    message = str(error).replace(f"{tmp_path}/", "").replace(str(tmp_path), "")
    assert isinstance(error, attack.error), f"{type(error).__name__}: {message}"
    assert attack.says.search(message), message
    # The user's own line, and nothing of ours.
    assert error.location is not None, message
    assert error.location.file == attack.program.__code__.co_filename
    assert error.location.line in attack.lines, message
    assert f"({Path(error.location.file).name}:{error.location.line})" in message
    assert "Traceback" not in message
    assert "/scalops/" not in message
    assert len(message) < 1500
    # Nothing is left over: no trace, no thread, and the session goes on.
    assert tracing.current() is None
    assert T.map(lambda r: r.a * 2).sum().collect() == 12.0
    left = set(threading.enumerate()) - threads
    assert not [t for t in left if t.name != "scalops" and "sample" not in t.name]


def test_there_are_enough_attacks_of_each_kind() -> None:
    kinds = Counter(a.program.__module__ for a in ATTACKS)
    assert len(ATTACKS) >= 60
    assert set(kinds) == {kind.__name__ for kind in KINDS}
    assert min(kinds.values()) >= 10
    names = [a.program.__name__ for a in ATTACKS]
    assert len(names) == len(set(names))
