"""Bytes of files that do not lie on a local disk, as binary streams of Python's."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa


class RemoteBytes(io.RawIOBase):
    """A file to read from anywhere; whatever its filesystem raises becomes an OSError.

    So that who reads files knows their errors, whichever client of a store they come from.
    """

    def __init__(self, stream: Any) -> None:
        """`stream` has read, seek and tell, and is closed with this one."""
        super().__init__()
        self._stream = stream

    @classmethod
    def opened(cls, open_it: Callable[[], Any]) -> RemoteBytes:
        """What a filesystem opens.

        A stream in memory may be the file itself, with one position for all who read.
        """
        stream = _checked(open_it)
        return cls(io.BytesIO(stream.getvalue()) if isinstance(stream, io.BytesIO) else stream)

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, all that are left by default."""
        if size is None or size < 0:
            return bytes(_checked(self._stream.read))
        return bytes(_checked(lambda: self._stream.read(size)))

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; fewer bytes at the end of the file."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position."""
        _checked(lambda: self._stream.seek(offset, whence))
        return self.tell()

    def tell(self) -> int:
        """The position."""
        return int(_checked(self._stream.tell))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Close the stream."""
        if not self.closed:
            super().close()
            _checked(self._stream.close)


def _checked(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (OSError, pa.ArrowException):
        raise
    except Exception as error:  # each client of a store has errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from error
