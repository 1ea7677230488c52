"""Lines of a text file: the first one, the head, and those that begin in a range of bytes."""

from __future__ import annotations

from scalops.algebra.errors import DataError
from scalops.engine.storage.files import File, reading

_FIRST_READ_BYTES = 65_536
_SAMPLES, _SAMPLE_BYTES = 16, 4_096


def first_line(file: File) -> tuple[bytes, int]:
    """The first line that is not empty, without its end, and where the next one begins.

    A line ends at "\\n", "\\r\\n" or "\\r". Empty if there is no such line.
    """
    wanted = _FIRST_READ_BYTES
    with reading(file.path), open(file.path, "rb") as stream:
        while True:
            stream.seek(0)
            data = stream.read(wanted)
            begin = 0
            for line in data.splitlines(keepends=True):
                end = begin + len(line)
                # The last line read may be cut, also between "\r" and "\n".
                if end == len(data) and end < file.size:
                    break
                if line.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf"):
                    return line.rstrip(b"\r\n"), end
                begin = end
            if len(data) < wanted:
                return b"", len(data)
            wanted *= 8


def head(file: File, start: int, most: int) -> bytes:
    """Whole lines from `start` on, about `most` bytes of them."""
    with reading(file.path), open(file.path, "rb") as stream:
        stream.seek(start)
        data = stream.read(most)
        return data if data.endswith(b"\n") else data + stream.readline()


def lines_beginning(file: File, first: int, start: int, stop: int) -> tuple[int, bytes]:
    """The lines that begin at start..stop-1, as a whole, and where the first of them begins.

    `first` is where the file's records begin. Lines end at "\\n" here: a file whose lines end at
    "\\r" alone is one line, read as a whole by the range that holds its first byte.

    Raises: DataError if the file has become another since the table was made.
    """
    with reading(file.path), open(file.path, "rb") as stream:
        size = stream.seek(0, 2)
        if size != file.size:
            raise DataError(
                f"{file.path} changed after the table was made: {file.size} bytes then, {size} now",
                hint="make a new table",
            )
        begin = first
        if start > first:
            stream.seek(start - 1)
            stream.readline()
            begin = stream.tell()
        if begin >= stop:
            return begin, b""
        stream.seek(begin)
        data = stream.read(stop - begin)
        return begin, data if data.endswith(b"\n") else data + stream.readline()


def line_number(file: File, position: int) -> int:
    """The number, from 1, of the line that begins at a position."""
    number = 1
    with reading(file.path), open(file.path, "rb") as stream:
        while position > 0 and (data := stream.read(min(position, 1 << 20))):
            number += data.count(b"\n")
            position -= len(data)
    return number


def encoding_hint(file: File) -> str:
    """What to do about a file that is not UTF-8 text."""
    with reading(file.path), open(file.path, "rb") as stream:
        start = stream.read(4)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"PK")):
        return "it looks compressed, which is not supported yet: unpack it"
    if start == b"PAR1":
        return "it is a Parquet file: use read_parquet"
    return "convert the file to UTF-8"


def sampled(file: File) -> bytes:
    """Up to 64 KiB of the file at fixed strides, from the first byte to the last."""
    places = range(_SAMPLES)
    last = max(0, file.size - _SAMPLE_BYTES)
    with reading(file.path), open(file.path, "rb") as stream:
        if file.size <= _SAMPLES * _SAMPLE_BYTES:
            return stream.read()
        found = []
        for place in places:
            stream.seek(last * place // (_SAMPLES - 1))
            found.append(stream.read(_SAMPLE_BYTES))
        return b"".join(found)
