"""Folds by a small integer key that give an array: entry i is of the records whose key is i."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scalops.algebra.dtypes import FLOAT64, ArrayType
from scalops.algebra.errors import Location
from scalops.algebra.folds import FOLDS, Fold

PREFIX = "segment_"
SEGMENT_KINDS = frozenset(
    {"count", "sum", "add", "mean", "minimum", "maximum", "sum_scaled", "add_scaled", "mean_scaled"}
)


@dataclass(frozen=True, eq=False, repr=False)
class Segment(Fold):
    """`name` = an array of `size` folds, one for each value that the key may have.

    Made by the optimizer. The first of the `arguments` is the key, an integer; the others are
    those of the fold, whose kind follows "segment_": (x,), or (s, x) of what is scaled, or none
    of a count.

    It stands for one of two things. A table of groups whose folds `to_array` places by their
    key: a null or a number outside 0..size-1 as key is then to_array's error, in which the key
    is called `key`; so is a fold that has no value where its group is there. Output 0 is the array,
    zero where no record is, and output 1 says which keys there are. Or, with `over`, a fold
    ("sum", "add", "mean") of all records of one_hot(key), scaled by a number or multiplied with a
    vector: records with a null key are skipped, a key outside is one_hot's error at
    `key_location`, and a value that is not finite meets the zeros of one_hot, as 0·∞ does.
    """

    size: int = 0
    key: str = ""
    over: str = ""
    key_location: Location | None = field(default=None, compare=False, kw_only=True)

    @property
    def of(self) -> str:
        """The kind of the fold for each key."""
        return self.kind.removeprefix(PREFIX)

    def _infer(self) -> ArrayType:
        if self.of not in SEGMENT_KINDS:
            raise TypeError(f"there is no fold {self.kind}")
        key, *given = (a.type for a in self.arguments)
        if key.shape or not key.is_plain or key.numpy.kind not in "iu":
            raise TypeError(f"the key is an integer for each record, not {key}")
        if self.output == 1:
            return ArrayType("bool", (self.size,))
        one = FOLDS[self.of].infer(*given)
        return ArrayType(FLOAT64.name if self.over else one.name, (self.size, *one.shape))

    @property
    def word(self) -> str:
        if not self.over:
            return "to_array"
        return FOLDS[self.over].word or self.over

    @property
    def empty(self) -> float | bool | None:
        """The value over no records; of groups, there are none."""
        return FOLDS[self.over].empty if self.over else 0

    @property
    def computation(self) -> Fold:
        """What is computed: a sum where a mean of floats is a quotient of it."""
        kind = self.kind
        word, _, scaled = self.of.partition("_")
        if word in ("mean", "add") and self.arguments[-1].type.numpy.kind == "f":
            kind = f"{PREFIX}sum_{scaled}" if scaled else f"{PREFIX}sum"
        over = "sum" if self.over else ""
        return replace(self, name="", output=0, kind=kind, over=over)
