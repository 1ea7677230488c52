"""Lines of a text file, compressed or not: the first, the head, those that begin in a range.

Positions are bytes of the text: in a compressed file, of what is in it.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from scalops.algebra.errors import DataError
from scalops.engine.storage.files import File, reading

COMPRESSED = ".gz"
BOM = b"\xef\xbb\xbf"
_FIRST_READ_BYTES = 65_536
_STREAMED_BYTES = 1 << 22
_SAMPLES, _SAMPLE_BYTES = 16, 4_096


def is_compressed(file: File) -> bool:
    """Told by the name: such a file is read from its beginning, by one reader."""
    return file.path.lower().endswith(COMPRESSED)


@contextmanager
def opened(file: File) -> Iterator[Any]:
    """The file's text as a binary stream; what fails in it is a DataError."""
    with reading(file.path), file.open() as stream:
        if is_compressed(file):
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked
        else:
            yield stream


def first_line(file: File) -> tuple[bytes, int]:
    """The first line that is not empty, without its end, and where the next one begins.

    A line ends at "\\n", "\\r\\n" or "\\r". Empty if there is no such line.
    """
    wanted = _FIRST_READ_BYTES
    with opened(file) as stream:
        while True:
            stream.seek(0)
            data = stream.read(wanted)
            whole = len(data) < wanted
            begin = 0
            for line in data.splitlines(keepends=True):
                end = begin + len(line)
                # The last line read may be cut, also between "\r" and "\n".
                if end == len(data) and not whole:
                    break
                if line.rstrip(b"\r\n").removeprefix(BOM):
                    return line.rstrip(b"\r\n"), end
                begin = end
            if whole:
                return b"", len(data)
            wanted *= 8


def text_start(file: File) -> int:
    """Where the text begins: after a byte order mark, if there is one."""
    with opened(file) as stream:
        return len(BOM) if stream.read(len(BOM)) == BOM else 0


def head(file: File, start: int, most: int) -> bytes:
    """Whole lines from `start` on, about `most` bytes of them."""
    with opened(file) as stream:
        stream.seek(start)
        data: bytes = stream.read(most)
        return data if data.endswith(b"\n") else data + stream.readline()


def lines_beginning(file: File, first: int, start: int, stop: int) -> tuple[int, bytes]:
    """The lines that begin at start..stop-1, as a whole, and where the first of them begins.

    `first` is where the file's records begin. Lines end at "\\n" here: a file whose lines end at
    "\\r" alone is one line, read as a whole by the range that holds its first byte.

    Raises: DataError if the file has become another since the table was made.
    """
    with opened(file) as stream:
        _check_size(file, stream.seek(0, 2))
        begin, data = first, b""
        if start > first:
            stream.seek(start - 1)
            stream.readline()
            begin = stream.tell()
        if begin < stop:
            stream.seek(begin)
            data = stream.read(stop - begin)
            data = data if data.endswith(b"\n") else data + stream.readline()
    # After reading: what is given was read before a change, all of it.
    file.check_read()
    return begin, data


def chunks_beginning(file: File, first: int, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a range as `lines_beginning` gives them, in one chunk or several.

    All of a compressed file belongs to the range that holds its first byte; it is streamed.
    """
    if not is_compressed(file):
        while start < stop:
            end = min(stop, start + _STREAMED_BYTES)
            begin, data = lines_beginning(file, first, start, end)
            if data:
                yield begin, data
            start = max(end, begin + len(data))  # no other line begins before
        return
    if start > 0:
        return
    with ExitStack() as opened_here:
        with reading(file.path):
            raw = opened_here.enter_context(file.open())
            _check_size(file, raw.seek(0, 2))
            raw.seek(0)
            stream = opened_here.enter_context(gzip.GzipFile(fileobj=raw))
            stream.seek(first)
        begin, wanted = first, _FIRST_READ_BYTES
        while True:
            with reading(file.path):
                data = stream.read(wanted)
                if data and not data.endswith(b"\n"):
                    data += stream.readline()
            if not data:
                file.check_read()
                return
            yield begin, data
            begin += len(data)
            wanted = _STREAMED_BYTES


def _check_size(file: File, size: int) -> None:
    """Raise DataError unless an open file of this size is the one that was inspected.

    One that is not local is asked for its time after it was read.
    """
    if size != file.size:
        raise DataError(
            f"{file.path} changed after the table was made: {file.size} bytes then, {size} now",
            hint="make a new table",
        )
    file.check_local()


def line_number(file: File, position: int) -> int:
    """The number, from 1, of the line that begins at a position."""
    number = 1
    with opened(file) as stream:
        while position > 0 and (data := stream.read(min(position, 1 << 20))):
            number += data.count(b"\n")
            position -= len(data)
    return number


def encoding_hint(file: File) -> str:
    """What to do about a file that is not UTF-8 text."""
    with reading(file.path), file.open() as stream:
        start = stream.read(4)
    if start.startswith(b"\x1f\x8b") and not is_compressed(file):
        return f"it looks compressed: give it a name that ends in {COMPRESSED}"
    if start.startswith((b"BZh", b"\x28\xb5\x2f\xfd", b"PK")):
        return "it looks compressed in a way that is not supported yet: unpack it"
    if start == b"PAR1":
        return "it is a Parquet file: use read_parquet"
    if start == b"ARRO":
        return "it is an Arrow file: use read_ipc"
    return "convert the file to UTF-8"


def sampled(file: File) -> bytes:
    """Up to 64 KiB of the file at fixed strides, from the first byte to the last, as it stands."""
    places = range(_SAMPLES)
    last = max(0, file.size - _SAMPLE_BYTES)
    with reading(file.path), file.open() as stream:
        if file.size <= _SAMPLES * _SAMPLE_BYTES:
            return stream.read()
        found = []
        for place in places:
            stream.seek(last * place // (_SAMPLES - 1))
            found.append(stream.read(_SAMPLE_BYTES))
        return b"".join(found)
