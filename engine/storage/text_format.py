"""Plain text: each line is a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import STRING, ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.storage.bad_records import OnError, Unreadable, checked_mode
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import encoding_hint, text_start
from scalops.engine.storage.text_contents import (
    TextContents,
    digest_of,
    lines_with_ends,
    or_compressed,
)

LINE = "line"
_SCHEMA = Schema(((LINE, ArrayType(STRING)),))
_MOST_BYTES = 2**31 - 1


@dataclass(frozen=True)
class TextFormat:
    """Options as the user gave them; see `read_text`."""

    on_error: OnError = "raise"

    name: ClassVar[str] = "text"
    suffixes: ClassVar[tuple[str, ...]] = or_compressed(".txt")

    @classmethod
    def of_options(cls, on_error: str) -> TextFormat:
        """Check the options."""
        return cls(checked_mode(on_error))

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> TextContents:
        """Look for byte order marks; there is nothing else to know."""
        starts = tuple(text_start(file) for file in files)
        return TextContents(
            files, starts, LineOfText(files), _SCHEMA, digest_of(files), self.on_error
        )


@dataclass(frozen=True)
class LineOfText:
    """A line ends at "\\n" or "\\r\\n"; an empty one is a record, the last needs no end."""

    files: tuple[File, ...]

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """The lines. Raises: Unreadable for what is not UTF-8."""
        if not columns:
            return Block(data.count(b"\n") + (data[-1:] not in (b"", b"\n")), {})
        if len(data) > _MOST_BYTES:
            raise Unreadable(" is a line or range of more than 2 GiB")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        if data and not data.endswith(b"\n"):
            ends = np.append(ends, len(data))
        offsets = np.zeros(len(ends) + 1, np.int32)
        offsets[1:] = ends - np.arange(len(ends))  # as many line ends are left out before it
        text = data.translate(None, b"\n")
        lines = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
        try:
            lines.validate(full=True)
        except pa.ArrowInvalid as error:
            hint = encoding_hint(self.files[file])
            start = text[:40] + b"..." * (len(text) > 40)
            raise Unreadable(f": {start!r} is not UTF-8 text", hint) from error
        return Block(len(lines), {LINE: lines})

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """A null."""
        missing = {LINE: np.zeros(1, bool)} if columns else {}
        return Block(1, {name: pa.nulls(1, pa.string()) for name in columns}, missing)

    def lines(self, data: bytes) -> list[bytes]:
        """The lines with their ends."""
        return lines_with_ends(data)
