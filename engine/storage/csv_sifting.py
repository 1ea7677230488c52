"""Lines of delimited text that are certainly readable, or certainly not, told without parsing them.

Where many lines are bad, finding each of them with Arrow's parser takes a call for each. Most are
told apart by the form of their fields; what these forms leave open, the parser decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from scalops.engine.storage.bad_records import Sifted

# Digits that every value of a type can have.
_DIGITS = {8: 2, 16: 4, 32: 9, 64: 18}
_MAYBE_WHOLE = re.compile(rb"\s*[-+]?(0[xX][0-9a-fA-F]*|\d*)\s*")
_NUMBER = re.compile(rb"-?\d{1,15}(\.\d{1,15})?")
_MAYBE_NUMBER = re.compile(rb"\s*[-+]?(\d*\.?\d*([eE][-+]?\d*)?|[iI][nN][fF]\w*|[nN][aA][nN].*)\s*")


def sifted(
    lines: Sequence[bytes],
    delimiter: bytes,
    names: Sequence[str],
    types: Mapping[str, pa.DataType],
    nulls: frozenset[bytes],
    fill: bool,
) -> Sifted:
    """Which lines are readable in the columns `types`, among `names`, are not, or may be.

    With `fill` a bad line counts as readable too, what cannot be read in it being emptied.
    """
    forms = [(names.index(n), kind, _form(kind), _maybe(kind)) for n, kind in types.items()]
    made = Sifted()
    for number, line in enumerate(lines):
        text = line.rstrip(b"\r\n")
        if not text:
            continue  # no record
        if b'"' in text or b"\0" in text or not text.isascii():
            made.unsure.append(number)
            continue
        fields = text.split(delimiter)
        is_bad = len(fields) != len(names)
        is_open = False
        emptied: list[int] = []
        for place, kind, form, maybe in forms:
            if place >= len(fields):
                is_open = is_open or pa.types.is_string(kind)  # null, and not an empty text
                continue
            field = fields[place]
            if not field or form is None or form.fullmatch(field):
                if form is None and field and not pa.types.is_string(kind):
                    is_open = True
                continue
            if maybe is not None and not maybe.fullmatch(field) and field.strip() not in nulls:
                is_bad = True
                emptied.append(place)
            else:
                is_open = True
        if not is_bad and not is_open:
            made.keep(number, text + b"\n")
        elif is_open and (fill or not is_bad):
            made.unsure.append(number)
        else:
            made.bad.append(number)
            if fill:
                for place in emptied:
                    fields[place] = b""
                fields += [b""] * (len(names) - len(fields))
                made.keep(number, delimiter.join(fields[: len(names)]) + b"\n")
    return made


def _form(kind: pa.DataType) -> re.Pattern[bytes] | None:
    """Of a text that is certainly such a value; None where that is open, or all are."""
    if pa.types.is_integer(kind):
        sign = b"-?" if pa.types.is_signed_integer(kind) else b""
        return re.compile(sign + rb"\d{1,%d}" % _DIGITS[kind.bit_width])
    return _NUMBER if kind in (pa.float32(), pa.float64()) else None


def _maybe(kind: pa.DataType) -> re.Pattern[bytes] | None:
    """Of every text that may be such a value, if it does not stand for null."""
    if pa.types.is_integer(kind):
        return _MAYBE_WHOLE
    return _MAYBE_NUMBER if kind in (pa.float32(), pa.float64()) else None
