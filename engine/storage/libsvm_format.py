"""The format of libsvm and SVMlight: options, and the dimension of the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scalops.algebra.dtypes import FLOAT64, sparse
from scalops.algebra.errors import PlanError
from scalops.algebra.schema import Schema
from scalops.engine.storage.bad_records import OnError, Unreadable, checked_mode
from scalops.engine.storage.files import File
from scalops.engine.storage.libsvm_parser import FEATURES, LABEL, LibsvmParser, greatest_index
from scalops.engine.storage.lines import head, opened, text_start
from scalops.engine.storage.text_contents import (
    TextContents,
    digest_of,
    first_unreadable,
    or_compressed,
    unreadable_line,
)

_HEAD_BYTES = 65_536
_SCANNED_BYTES = 1 << 18
_MOST_FEATURES = 2**31 - 1


@dataclass(frozen=True)
class LibsvmFormat:
    """Options as the user gave them; see `read_libsvm`."""

    n_features: int | None = None
    zero_based: bool = False
    on_error: OnError = "raise"

    name: ClassVar[str] = "libsvm"
    suffixes: ClassVar[tuple[str, ...]] = or_compressed(".libsvm", ".svm", ".svmlight")

    @classmethod
    def of_options(cls, n_features: int | None, zero_based: bool, on_error: str) -> LibsvmFormat:
        """Check the options. Raises: PlanError."""
        if n_features is not None and not (
            isinstance(n_features, int)
            and not isinstance(n_features, bool)
            and 0 <= n_features <= _MOST_FEATURES
        ):
            raise PlanError(f"n_features={n_features!r} must be an int from 0 to 2**31 - 1")
        if not isinstance(zero_based, bool):
            raise PlanError(
                f"zero_based={zero_based!r} must be True or False",
                hint="libsvm's indices count from 1: zero_based=False",
            )
        return cls(n_features, zero_based, checked_mode(on_error))

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> TextContents:
        """Without `n_features` a pass over all files finds the greatest index."""
        starts = tuple(text_start(file) for file in files)
        base = 0 if self.zero_based else 1
        dimension = self.n_features
        if dimension is None:
            dimension = max(map(_greatest_index, files)) + 1 - base
        dimension = max(0, dimension)
        schema = Schema(((LABEL, FLOAT64), (FEATURES, sparse(dimension))))
        parser = LibsvmParser(files, schema, dimension, base, self.n_features is None)
        if self.on_error == "raise":
            self._try_head(parser, starts)
        return TextContents(files, starts, parser, schema, digest_of(files), self.on_error)

    def _try_head(self, parser: LibsvmParser, starts: tuple[int, ...]) -> None:
        """A file of another format is refused at once."""
        for index, (file, start) in enumerate(zip(parser.files, starts, strict=True)):
            data = head(file, start, _HEAD_BYTES)
            try:
                parser.parse(index, data, (LABEL, FEATURES))
            except Unreadable as error:
                offset, error = first_unreadable(
                    lambda lines: parser.parse(0, lines, (LABEL,)), parser.lines(data), error
                )
                raise unreadable_line(file, start + offset, error) from error


def _greatest_index(file: File) -> int:
    found = -1
    with opened(file) as stream:
        while data := stream.read(_SCANNED_BYTES):
            if not data.endswith(b"\n"):
                data += stream.readline()
            found = max(found, greatest_index(data))
    return found
