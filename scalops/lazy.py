"""What tables, values, structures and loops have in common: a plan that can be looked at."""

from __future__ import annotations

from types import FunctionType


def name_methods(title: str, *kinds: type) -> None:
    """Let what Python says of a wrong call name the methods as users write them: `Table.sort()`."""
    for kind in kinds:
        for name, method in vars(kind).items():
            if isinstance(method, FunctionType):
                method.__qualname__ = f"{title}.{name}" if title else name


class Lazy:
    """Something that a plan will compute."""

    __slots__ = ()

    def explain(
        self,
        stage: str | None = None,
        format: str = "text",
        trace: bool = False,
        analyze: bool = False,
        costs: bool = True,
    ) -> str:
        """The plan that would compute it, at a stage: nothing is run, but with `analyze`.

        `stage` is traced, logical, optimized, physical or all, `format` text, json, dot, mermaid or
        html; `trace` adds what each rule did, `costs` what the physical plan is estimated to take.
        With `analyze` it is run, and the physical plan shown with what happened.
        """
        from scalops.explain import explain

        return explain(self, stage=stage, format=format, trace=trace, analyze=analyze, costs=costs)


name_methods("", Lazy)
