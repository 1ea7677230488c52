"""The text format of Vowpal Wabbit: options, and the columns of its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scalops.algebra.dtypes import FLOAT64, STRING, ArrayType, sparse
from scalops.algebra.errors import PlanError
from scalops.algebra.schema import Schema
from scalops.engine.storage.bad_records import OnError, Unreadable, checked_mode
from scalops.engine.storage.files import File
from scalops.engine.storage.lines import head, text_start
from scalops.engine.storage.text_contents import (
    TextContents,
    digest_of,
    first_unreadable,
    or_compressed,
    unreadable_line,
)
from scalops.engine.storage.vw_parser import BASE, FEATURES, LABEL, TAG, WEIGHT, VwParser

_HEAD_BYTES = 65_536
_BITS, _MOST_BITS = 18, 30
_MOST_FEATURES = 2**31 - 1


@dataclass(frozen=True)
class VwFormat:
    """Options as the user gave them; see `read_vw`."""

    bits: int | None = None
    n_features: int | None = None
    constant: bool = False
    on_error: OnError = "raise"

    name: ClassVar[str] = "vw"
    suffixes: ClassVar[tuple[str, ...]] = or_compressed(".vw")

    @classmethod
    def of_options(
        cls, bits: int | None, n_features: int | None, constant: bool, on_error: str
    ) -> VwFormat:
        """Check the options. Raises: PlanError."""
        _check_range("bits", bits, 1, _MOST_BITS)
        _check_range("n_features", n_features, 1, _MOST_FEATURES)
        if bits is not None and n_features is not None:
            raise PlanError(
                f"bits={bits} hashes the names of features, n_features={n_features} takes them for"
                " their indices: give one of them"
            )
        if not isinstance(constant, bool):
            raise PlanError(f"constant={constant!r} must be True or False")
        if constant and n_features is not None:
            raise PlanError(
                "constant=True adds a feature whose index is Vowpal Wabbit's, by a hash: with"
                " n_features= there is none",
                hint="leave n_features out, or add a field of its own to the model",
            )
        return cls(bits, n_features, constant, checked_mode(on_error))

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> TextContents:
        """All files have the same columns; nothing but their heads is read."""
        starts = tuple(text_start(file) for file in files)
        dimension = self.n_features or 2 ** (self.bits or _BITS)
        schema = Schema(
            (
                (LABEL, FLOAT64),
                (WEIGHT, FLOAT64),
                (BASE, FLOAT64),
                (TAG, ArrayType(STRING)),
                (FEATURES, sparse(dimension)),
            )
        )
        parser = VwParser(files, schema, dimension, self.n_features is not None, self.constant)
        if self.on_error == "raise":
            _try_head(parser, starts)
        return TextContents(files, starts, parser, schema, digest_of(files), self.on_error)


def _check_range(name: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        text = "2**31 - 1" if most == _MOST_FEATURES else str(most)
        raise PlanError(f"{name}={value!r} must be an int from {least} to {text}")


def _try_head(parser: VwParser, starts: tuple[int, ...]) -> None:
    """A file of another format is refused at once."""
    for index, (file, start) in enumerate(zip(parser.files, starts, strict=True)):
        data = head(file, start, _HEAD_BYTES)
        try:
            parser.parse(index, data, (LABEL,))
        except Unreadable as error:
            offset, error = first_unreadable(
                lambda lines: parser.parse(0, lines, (LABEL,)), parser.lines(data), error
            )
            raise unreadable_line(file, start + offset, error) from error
