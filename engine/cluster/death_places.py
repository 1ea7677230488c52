"""Where a worker's threads were when it died, as messages hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from scalops.algebra.errors import Location
from scalops.engine.cluster.message_codec import Between, Most
from scalops.engine.progress import Place

_Partition: TypeAlias = Annotated[int, Between(-1, 1 << 31)]
_Line: TypeAlias = Annotated[int, Between(0, 1 << 31)]
_Text: TypeAlias = Annotated[str, Most(1024)]
# Partition, function, its file and line, over what; None: nobody knows.
Places: TypeAlias = tuple[tuple[_Partition, _Text, _Text, _Line, _Text], ...] | None


def told_places(found: Sequence[Place]) -> Places:
    """Places as a message's field. When calls began means nothing on another machine."""
    return tuple(
        (
            place.partition,
            place.function,
            "" if place.location is None else place.location.file,
            0 if place.location is None else place.location.line,
            place.over,
        )
        for place in found
    )


def heard_places(told: Places) -> tuple[Place, ...] | None:
    """The places of `told_places`; None where nobody knows them."""
    if told is None:
        return None
    return tuple(
        Place(partition, function, Location(file, line) if file else None, over)
        for partition, function, file, line, over in told
    )
