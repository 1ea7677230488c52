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
        stage: str = "optimized",
        format: str = "text",
        trace: bool = False,
        analyze: bool = False,
    ) -> str:
        """The plan that would compute it, at a stage: nothing is run.

        `stage` is traced, logical, optimized, physical or all, `format` text or json; `trace`
        adds what each rule did.
        """
        from scalops.explain import explain

        return explain(self, stage=stage, format=format, trace=trace, analyze=analyze)


name_methods("", Lazy)
