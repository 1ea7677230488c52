"""What the command line will have and this version has not: refused plainly, never offered."""

from __future__ import annotations

from typing import Any, NoReturn

import click

COMMANDS = ("whatif",)


class NotYetBuilt(click.ClickException):
    """Printed like a PlanError; the usage is right, only this version cannot do it."""

    exit_code = 2

    def __init__(self, what: str) -> None:
        super().__init__(
            f"PlanError: {what} is not yet built; the README lists what works in this version"
        )

    def show(self, file: Any = None) -> None:
        click.secho(self.format_message(), fg="red", err=True)


def refused_command(name: str) -> click.Command:
    """A hidden command that takes anything and refuses."""

    def refuse(**_: Any) -> NoReturn:
        raise NotYetBuilt(f"scalops {name}")

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )


def refused_option(declaration: str, *, is_flag: bool = False) -> click.Option:
    """A hidden option that refuses when it is given."""

    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            raise NotYetBuilt(declaration)

    return click.Option(
        [declaration], is_flag=is_flag, hidden=True, expose_value=False, callback=refuse
    )
