"""What tables, values, structures and loops have in common: a plan that can be looked at."""

from __future__ import annotations


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

        return explain(self, stage, format, trace, analyze)
