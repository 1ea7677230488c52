"""The parameters of a program as command-line options."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

_TYPES: dict[Any, Any] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    bool: click.BOOL,
    Path: click.Path(path_type=Path),
}
_SUPPORTED = "int, float, str, bool, Path, or one of these | None"


def normalize(name: str) -> str:
    """An option's name without regard to `-` or `_`: `lambda_` -> `lambda`."""
    return name.replace("_", "-").strip("-")


class ProgramOption(click.Option):
    """An option that stands for a parameter of the program."""

    def __init__(self, parameter: inspect.Parameter, kind: Any, option: str) -> None:
        self.parameter = parameter
        self.option = option
        required = parameter.default is parameter.empty
        switch = f"--{option}/--no-{option}" if kind is bool else f"--{option}"
        renamed = option != normalize(parameter.name)
        # Where the option is not given the function's own default holds, not one of click's.
        default: dict[str, Any] = {} if required else {"default": None}
        super().__init__(
            [switch, f"program_{parameter.name}"],
            type=_TYPES[kind],
            required=required,
            **default,
            help=f"The program's parameter {parameter.name}." if renamed else None,
        )

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if not self.required:
            extra["default"] = self._shown_default()
        return extra

    def _shown_default(self) -> str:
        default = self.parameter.default
        if isinstance(default, bool):
            return self.option if default else f"no-{self.option}"
        if default is None:
            return "none"
        return '""' if default == "" else str(default)


def program_options(function: Callable[..., Any], reserved: Collection[str]) -> list[ProgramOption]:
    """One option per parameter, in order; a usage error where a type is not supported.

    A parameter whose option is taken, by `reserved` or by another, becomes `--param-NAME`.
    """
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    hints = _type_hints(function)
    kinds = {p.name: _kind(function, p, hints) for p in parameters}
    plain = [normalize(p.name) for p in parameters]
    taken = set(reserved)
    options = []
    for parameter in parameters:
        kind = kinds[parameter.name]
        option = normalize(parameter.name) or "param"
        while not taken.isdisjoint(_names(option, kind)) or (
            kind is bool and f"no-{option}" in plain
        ):
            option = f"param-{option}"
        taken |= _names(option, kind)
        options.append(ProgramOption(parameter, kind, option))
    return options


def no_such_option(
    given: str, options: Collection[ProgramOption], own: Collection[click.Parameter]
) -> str:
    """What to say of an option that neither the program has nor, as its `own`, the command."""
    text = f"No such option {given!r}." + did_you_mean(given, [*options, *own])
    names = ", ".join(f"--{o.option}" for o in options)
    if not names:
        return f"{text} The program has no options."
    return f"{text} The program's options are {names}."


def did_you_mean(given: str, options: Collection[click.Parameter]) -> str:
    """A sentence that names the option which an unknown one resembles; empty where none does."""
    shown = [o for o in options if isinstance(o, click.Option) and not o.hidden]
    is_program = {normalize(o.opts[0]): isinstance(o, ProgramOption) for o in reversed(shown)}
    near = get_close_matches(normalize(given), is_program, 1)
    if not near:
        return ""
    whose = "" if is_program[near[0]] else ", an option of scalops"
    return f" Did you mean '--{near[0]}'{whose}?"


def call_program(program: Callable[..., Any], ctx: click.Context) -> Any:
    """Call the program with the options that were given."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for option in ctx.command.params:
        if not isinstance(option, ProgramOption):
            continue
        source = ctx.get_parameter_source(str(option.name))
        is_given = source is click.core.ParameterSource.COMMANDLINE
        name, default = option.parameter.name, option.parameter.default
        if option.parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(ctx.params[str(option.name)] if is_given else default)
        elif is_given:
            named[name] = ctx.params[str(option.name)]
    return program(*positional, **named)


def _names(option: str, kind: Any) -> set[str]:
    return {option, f"no-{option}"} if kind is bool else {option}


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception as error:  # whatever evaluating the user's annotations raises
        raise click.UsageError(
            f"The annotations of {_title(function)} cannot be read: {type(error).__name__}: {error}"
        ) from None


def _kind(function: Callable[..., Any], parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    """The parameter's type: from its annotation, else from its default."""
    annotation = hints.get(parameter.name, Any)
    if annotation is Any:
        for kind in (bool, int, float, str, Path):
            if isinstance(parameter.default, kind):
                return kind
        found = "no default"
        if parameter.default is not parameter.empty:
            found = f"the default {parameter.default!r}"
        raise click.UsageError(
            f"The parameter {parameter.name!r} of {_title(function)} has no annotation and {found};"
            f" annotate it as {_SUPPORTED}."
        )
    kind = _without_none(annotation)
    if kind not in _TYPES:
        shown = inspect.formatannotation(annotation)
        raise click.UsageError(
            f"The parameter {parameter.name!r} of {_title(function)} is annotated {shown},"
            f" which is no option's type; expected {_SUPPORTED}."
        )
    return kind


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _title(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', 'the program')}()"
