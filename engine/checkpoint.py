"""Checkpoints: a loop's environment and history after an iteration, on disk.

A file is the magic, a format version and the header's length, the header (JSON), the arrays'
bytes one after the other (a table's are an Arrow IPC stream), and a checksum of all that. It is
written beside its place, synced, and renamed, so that a file under its own name is whole unless
the disk has damaged it. The last two are kept.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from scalops.algebra.errors import DataError, Location, PlanError
from scalops.engine.checkpoint_tables import encode_rows
from scalops.engine.outcome import StateRows

log = logging.getLogger("scalops")

FORMAT_VERSION = 1
_MAGIC = b"scalops checkpoint\n"
_LENGTHS = struct.Struct("<IQ")  # format version, bytes of the header
_CHECKSUM = 32
_NAME = "checkpoint-*.scalops"


@dataclass(frozen=True)
class Checkpoint:
    """A loop after `iterations` of them.

    `fingerprint` is the plan's; `about` describes the program, so that a refusal can say what
    differs: a text by the part's name, which begins with # where it is for no reader. A table of
    the state is its StateRows; of a checkpoint that was read, the bytes that `decode_rows` takes.
    """

    fingerprint: str
    about: Mapping[str, str]
    iterations: int
    state: Mapping[str, Any]
    history: Mapping[str, Any] = field(default_factory=dict)


class _Damaged(Exception):
    """Why a file is no whole checkpoint."""


def encode(checkpoint: Checkpoint) -> bytes:
    """The bytes of a file."""
    arrays: list[bytes] = []
    header = {
        "fingerprint": checkpoint.fingerprint,
        "about": dict(checkpoint.about),
        "iterations": checkpoint.iterations,
        "state": {n: _described(v, arrays) for n, v in checkpoint.state.items()},
        "history": {n: _described(v, arrays) for n, v in checkpoint.history.items()},
    }
    text = json.dumps(header).encode()
    whole = b"".join([_MAGIC, _LENGTHS.pack(FORMAT_VERSION, len(text)), text, *arrays])
    return whole + _checksum(whole)


def _described(value: Any, arrays: list[bytes]) -> Any:
    """A value's place in the header; the bytes of an array go to `arrays`."""
    if isinstance(value, (str, list)):
        return {"text": value}
    if isinstance(value, StateRows):
        arrays.append(encode_rows(value))
        return {"table": len(arrays[-1])}
    array = np.asarray(value)
    arrays.append(array.tobytes())
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def decode(content: bytes, path: Path) -> Checkpoint:
    """The checkpoint of a file's bytes; DataError where the format is another version's."""
    body, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    start = len(_MAGIC) + _LENGTHS.size
    if len(body) < start or not body.startswith(_MAGIC):
        raise _Damaged("it does not begin as a checkpoint does")
    if _checksum(body) != checksum:
        raise _Damaged("its checksum does not fit its content")
    version, length = _LENGTHS.unpack_from(body, len(_MAGIC))
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} is a checkpoint of format {version}; this version reads format"
            f" {FORMAT_VERSION}",
            hint="resume it with the version that wrote it",
        )
    header = json.loads(body[start : start + length])
    at = start + length

    def taken(description: dict[str, Any]) -> Any:
        nonlocal at
        if "text" in description:
            return description["text"]
        if "table" in description:
            at += description["table"]
            return body[at - description["table"] : at]
        dtype, shape = np.dtype(description["dtype"]), tuple(description["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body, dtype, count, at).reshape(shape)
        at += array.nbytes
        return array.astype(dtype.newbyteorder("="))[()]

    state = {n: taken(d) for n, d in header["state"].items()}
    history = {n: taken(d) for n, d in header["history"].items()}
    return Checkpoint(header["fingerprint"], header["about"], header["iterations"], state, history)


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECKSUM).digest()


def newest(folder: Path) -> tuple[Path, Checkpoint]:
    """The last whole checkpoint of a folder; DataError where there is none."""
    paths = _checkpoints(folder)
    for path, found in _read(paths):
        if isinstance(found, Checkpoint):
            return path, found
        log.warning("the checkpoint %s is damaged (%s); the one before is used", path, found)
    if not paths:
        raise DataError(f"{folder} holds no checkpoint", hint="run(checkpoint=folder) writes them")
    raise DataError(f"no checkpoint is whole: {', '.join(map(str, paths))} are damaged")


def is_empty(folder: Path) -> bool:
    """Whether a folder has no checkpoint, or is not there."""
    return not _checkpoints(folder)


def require_own(folder: Path, fingerprint: str, location: Location | None) -> None:
    """Raise PlanError where a folder holds the checkpoints of another plan."""
    for path, found in _read(_checkpoints(folder)):
        if isinstance(found, Checkpoint) and found.fingerprint != fingerprint:
            raise PlanError(
                f"{path} is a checkpoint of another program, or of this one before it was edited;"
                " a new run would replace it",
                location=location,
                hint="name another folder, or remove this one",
            )


def _checkpoints(folder: Path) -> list[Path]:
    """Files of the folder by name, the newest first."""
    try:
        return sorted(folder.glob(_NAME), reverse=True) if folder.is_dir() else []
    except OSError as error:  # a name that is too long
        raise DataError(f"the folder {folder} cannot be read: {error}") from error


def _read(paths: list[Path]) -> Iterator[tuple[Path, Checkpoint | _Damaged]]:
    for path in paths:
        try:
            if path.is_fifo():  # it would be waited for
                raise _Damaged("it is a pipe")
            yield path, decode(path.read_bytes(), path)
        except _Damaged as damage:
            yield path, damage
        except OSError as error:
            raise DataError(f"the checkpoint {path} cannot be read: {error}") from error


def require_same_plan(
    found: Checkpoint,
    path: Path,
    fingerprint: str,
    about: Mapping[str, str],
    location: Location | None,
) -> None:
    """Raise PlanError where the checkpoint is of another program or of other data."""
    if found.fingerprint == fingerprint:
        return
    differing = [
        name if now.startswith("#") else f"{name} ({found.about[name]} then, {now} now)"
        for name, now in about.items()
        if name in found.about and found.about[name] != now
    ]
    raise PlanError(
        f"{path} was written by another plan: what differs is"
        f" {', '.join(differing) or 'the version of scalops, or what the loop reads'}",
        location=location,
        hint="resume with the program and the data that it was written by",
    )


class CheckpointFolder:
    """Where a run leaves its checkpoints: numbered files, the last two of them."""

    def __init__(self, folder: Path, resumed: Path | None = None) -> None:
        """Make the folder if need be; DataError where nothing can be written there.

        `resumed` is the checkpoint from which this run goes on. Others give way to new ones.
        """
        self._folder, self._before = folder, resumed
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f".{_NAME}.part"):  # of a run that was ended while writing
                left.unlink()
            self._write(folder / ".checkpoint-0.scalops.part", b"")
            (folder / ".checkpoint-0.scalops.part").unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        self._has_saved = False
        present = _checkpoints(folder)
        self._number = max((_number(p) for p in present), default=0)
        if present and resumed not in present:
            log.warning(
                "%s holds checkpoints of an earlier run, which will be replaced;"
                " run(resume=...) goes on from them",
                folder,
            )

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one, and drop all but it and the one before."""
        self._number += 1
        path = self._folder / _NAME.replace("*", f"{self._number:08d}")
        part = self._folder / f".{path.name}.part"
        try:
            self._write(part, encode(checkpoint))
            part.rename(path)
            _sync(self._folder)
            for old in _checkpoints(self._folder):
                if old not in (path, self._before):
                    old.unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            with suppress(OSError):  # of a write that failed, or was interrupted
                part.unlink(missing_ok=True)
        self._before, self._has_saved = path, True

    def last_saved(self) -> Checkpoint | None:
        """The last one that was written here, if any was."""
        return newest(self._folder)[1] if self._has_saved else None

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"no checkpoint can be written to {self._folder}: {error}")


def _number(path: Path) -> int:
    digits = path.name.removeprefix("checkpoint-").removesuffix(".scalops")
    return int(digits) if digits.isdigit() else 0


def _sync(folder: Path) -> None:
    """Make a rename lasting: it is written in the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
