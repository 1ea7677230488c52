"""Messages come back as they went, and nonsense is refused in little time and memory."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import pytest

from scalops.engine.cluster import messages
from scalops.engine.cluster.message_codec import (
    MOST_BYTES,
    MOST_DEPTH,
    MOST_ITEMS,
    Between,
    Codec,
    Most,
)
from scalops.engine.cluster.messages import (
    MESSAGES,
    MalformedMessage,
    decode,
    decode_with_sizes,
    encode,
)

BY_NAME = {kind.__name__: kind for kind in MESSAGES.values()}
KINDS = pytest.mark.parametrize("kind", BY_NAME.values(), ids=BY_NAME)
REPLIED = messages.Replied(1, 2, 3, 4, ["piece", {"rows": 5, "mean": -0.0}, [None, True, b"\0"]])
TEXT = "aß\u20ac\U0001f600\udc80\0"  # half a surrogate pair too: file names hold them


def example(annotation: Any, rng: np.random.Generator) -> Any:
    """Some value that a field so annotated may have."""
    limit: Any = None
    if get_origin(annotation) is Annotated:
        annotation, limit = get_args(annotation)
    most = 8 if limit is None or isinstance(limit, Between) else min(8, limit.length)
    if annotation is Any:
        return plain(rng, 3)
    if annotation is int:
        low, high = (0, 100) if limit is None else (int(limit.least), int(limit.most))
        return (low, high, int(rng.integers(low, high)))[rng.integers(3)]
    if annotation is float:
        return float(rng.uniform(limit.least, limit.most)) if limit else float(rng.normal())
    if annotation is bool:
        return bool(rng.integers(2))
    if annotation is str:
        return "".join(rng.choice(list(TEXT), rng.integers(most)))
    if annotation is bytes:
        return rng.bytes(int(rng.integers(most)))
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        assert inner[1] is NoneType
        return None if rng.integers(2) else example(inner[0], rng)
    if origin is dict:
        return {str(i): example(inner[1], rng) for i in range(rng.integers(most))}
    assert origin is tuple
    if inner[-1] is Ellipsis:
        return tuple(example(inner[0], rng) for _ in range(rng.integers(most)))
    return tuple(example(x, rng) for x in inner)


def plain(rng: np.random.Generator, depth: int) -> Any:
    """What an Any may hold."""
    leaves: list[Any] = [None, True, -(1 << 63), (1 << 64) - 1, -0.0, float("inf"), TEXT, b"\xff"]
    kind = rng.integers(len(leaves) + (2 if depth else 0))
    if kind < len(leaves):
        return leaves[kind]
    inner = [plain(rng, depth - 1) for _ in range(rng.integers(4))]
    return inner if kind == len(leaves) else {f"{i}{TEXT}": x for i, x in enumerate(inner)}


def some(kind: type, seed: int) -> Any:
    """A message of a class."""
    rng = np.random.default_rng(seed)
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{f.name: example(hints[f.name], rng) for f in fields(kind)})


@KINDS
def test_comes_back_as_it_went(kind: type) -> None:
    for seed in range(20):
        message = some(kind, seed)
        sizes = tuple(range(seed))
        assert repr(decode_with_sizes(encode(message, sizes))) == repr((message, sizes))
        assert decode(memoryview(encode(message))) == message


def test_every_message_has_one_number() -> None:
    written = {
        x for x in vars(messages).values() if is_dataclass(x) and x.__module__ == messages.__name__
    }
    assert set(MESSAGES.values()) == written
    assert len(MESSAGES) == len(written)


@KINDS
def test_a_field_of_another_kind_is_refused_by_both_ends(kind: type) -> None:
    number, sizes, *values = msgpack.unpackb(encode(some(kind, 1)), unicode_errors="surrogatepass")
    strange: list[Any] = [None, True, -7, 1 << 63, 0.5, "x" * 70_000, b"x" * 70_000, [[0]], {"": 0}]
    for i, field in enumerate(fields(kind)):
        annotation = get_type_hints(kind)[field.name]
        for value in [] if annotation is Any else strange:
            values_now = [*values[:i], value, *values[i + 1 :]]
            data = msgpack.packb([number, sizes, *values_now], unicode_errors="surrogatepass")
            if admits(annotation, value):
                found = decode(data)
                assert decode(encode(found)) == found
                continue
            for act in (lambda: decode(data), lambda: encode(kind(*values_now))):  # noqa: B023
                with pytest.raises(MalformedMessage, match=rf"{kind.__name__}\.{field.name}: "):
                    act()


def admits(annotation: Any, value: Any) -> bool:
    """Whether a value is of the kind annotated; all of the values tried are out of range."""
    kind = get_origin(annotation) or annotation
    if kind is dict:
        return type(value) is dict and get_args(annotation)[1] is Any
    if kind in (Union, UnionType):
        return value is None
    return kind in (bool, float) and type(value) is kind


@pytest.mark.parametrize(
    "message",
    [
        replace(REPLIED, rank=-1),
        replace(REPLIED, rank=True),
        replace(REPLIED, rank=np.int64(3)),  # type: ignore[arg-type]
        messages.Welcome("s", float("nan"), {}),
        messages.Shutdown("x" * 70_000),
        messages.Members(1, 1, ((0, "w", "address"),)),  # type: ignore[arg-type]
        messages.Wanted(1, 1, 0, 0, ("0",)),  # type: ignore[arg-type]
        messages.Welcome("s", 1.0, {1: 2}),  # type: ignore[dict-item]
        REPLIED.piece,
        object(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_wrong_field_cannot_be_sent(message: Any) -> None:
    with pytest.raises(MalformedMessage):
        encode(message)


def nested(depth: int) -> Any:
    """Lists and dicts in each other."""
    value: Any = 1
    for i in range(depth):
        value = {"k": value} if i % 2 else [0, value]
    return value


PIECES: dict[str, Any] = {
    "too deep": nested(MOST_DEPTH + 1),
    "much too deep": nested(500),
    "too many": [0] * (MOST_ITEMS + 1),
    "too many keys": {str(i): 0 for i in range(MOST_ITEMS + 1)},
    "too long": b"x" * MOST_BYTES,
    "number for key": [{1: 2}],
    "bytes for key": {b"1": 2},
    "extension": msgpack.ExtType(5, b"data"),
    "time": msgpack.Timestamp(1),
    "too great": 1 << 64,
    "too small": [-(1 << 63) - 1],
}


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_piece_beyond_the_limits_is_refused_by_both_ends(piece: Any) -> None:
    with pytest.raises(MalformedMessage):
        encode(replace(REPLIED, piece=piece))
    try:
        data = msgpack.packb([3, [], 1, 2, 3, 4, piece])
    except OverflowError:  # msgpack itself has no such number
        return
    with pytest.raises(MalformedMessage):
        decode(data)


@pytest.mark.parametrize(
    "piece", [np.arange(3), {1, 2}, lambda: 0, 1j, np.int64(1)], ids=lambda x: type(x).__name__
)
def test_what_is_not_plain_cannot_be_sent(piece: Any) -> None:
    with pytest.raises(MalformedMessage, match=r"Replied\.piece: "):
        encode(replace(REPLIED, piece=[piece]))


@pytest.mark.parametrize("piece", [nested(MOST_DEPTH), [0] * MOST_ITEMS, float("nan")])
def test_piece_at_the_limits_is_sent(piece: Any) -> None:
    assert repr(decode(encode(replace(REPLIED, piece=piece)))) == repr(
        replace(REPLIED, piece=piece)
    )


def test_tuples_of_a_piece_arrive_as_lists() -> None:
    assert decode(encode(replace(REPLIED, piece=((1, 2), {"a": (3,)})))).piece == [
        [1, 2],
        {"a": [3]},
    ]


@pytest.mark.parametrize(
    "sizes", [(-1,), (1.0,), (True,), (1 << 60,), (0,) * (MOST_ITEMS + 1)], ids=lambda s: str(s)[:9]
)
def test_senseless_sizes_are_refused_by_both_ends(sizes: Any) -> None:
    with pytest.raises(MalformedMessage):
        encode(REPLIED, sizes)
    with pytest.raises(MalformedMessage):
        decode_with_sizes(msgpack.packb([3, sizes, 1, 2, 3, 4, None]))


@pytest.mark.parametrize(
    "found", [None, [], [3], [3, []], [99, []], ["Replied", []], [3, [], 1, 2, 3, 4, 5, 6], {}, 28]
)
def test_what_is_no_message_is_refused(found: Any) -> None:
    with pytest.raises(MalformedMessage):
        decode(msgpack.packb(found))


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode(encode(REPLIED) + b"\0")


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a list that claims 4 G items": lambda: b"\xdd\xff\xff\xff\xff" * 100,
    "lists that claim as much as they can": lambda: (
        (b"\xdd" + MOST_ITEMS.to_bytes(4, "big")) * 400 + bytes(MOST_BYTES - 2000)
    ),
    "a dict that claims 4 G items": lambda: b"\xdf\xff\xff\xff\xff" * 100,
    "bytes that claim 4 GB": lambda: b"\xc6\xff\xff\xff\xff" + bytes(100),
    "a million parts": lambda: msgpack.packb([3, [], 1, 2, 3, 4, [[0] * 1000] * 1000]),
    "empty lists, the costliest bytes": lambda: msgpack.packb(
        [3, [], 1, 2, 3, [], [[[]] * 1000] * 300]
    ),
    "a million levels": lambda: b"\x91" * 1_000_000,
    "more bytes than allowed": lambda: bytes(MOST_BYTES + 1),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_message_takes_bounded_memory(make: Callable[[], bytes]) -> None:
    data = make()
    tracemalloc.start()
    try:
        decode(data)
    except MalformedMessage:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Lists reserve what they claim, up to the deepest msgpack goes; never touched, never real.
    assert peak < 600 << 20


def fuzz(count: int, seed: int) -> int:
    """Decode random bytes and messages with random changes; how many were messages."""
    rng = np.random.default_rng(seed)
    sound = [np.frombuffer(encode(some(k, i), (8, 8)), np.uint8) for i, k in MESSAGES.items()]
    accepted = 0
    for i in range(count):
        data = sound[i % len(sound)].copy()
        at = rng.integers(len(data), size=1 + i % 3)
        if i % 4 == 0:
            data = rng.integers(256, size=rng.integers(80)).astype(np.uint8)
        elif i % 4 == 1:
            data[at] ^= np.left_shift(1, rng.integers(8, size=len(at))).astype(np.uint8)
        elif i % 4 == 2:
            data[at] = rng.integers(256, size=len(at))
        else:
            data = np.concatenate([data[: at[0]], sound[rng.integers(len(sound))][at[0] :]])
        try:
            message, sizes = decode_with_sizes(data.tobytes())
        except MalformedMessage:
            continue
        accepted += 1
        assert repr(decode_with_sizes(encode(message, sizes))) == repr((message, sizes))
    return accepted


def test_random_changes_give_messages_or_are_refused() -> None:
    assert 0 < fuzz(20_000, 0) < 20_000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_random_changes_give_messages_or_are_refused(seed: int) -> None:
    assert 0 < fuzz(100_000, seed) < 100_000


def test_a_field_that_cannot_be_checked_is_refused_when_written() -> None:
    for annotation in (set[int], list[int], dict[int, int], int | str, object):
        kind = type("Wrong", (), {"__annotations__": {"field": annotation}})
        with pytest.raises(TypeError, match="cannot have a field"):
            Codec({1: dataclass(kind)})


def test_lengths_of_containers_are_limited() -> None:
    kind = make_dataclass(
        "Short", [("rows", Annotated[tuple[int, ...], Most(2)]), ("maybe", int | None)]
    )
    codec = Codec({1: kind})
    assert codec.decode(codec.encode(kind((1, 2), None)))[0] == kind((1, 2), None)
    with pytest.raises(MalformedMessage, match=r"Short\.rows"):
        codec.encode(kind((1, 2, 3), 1))
