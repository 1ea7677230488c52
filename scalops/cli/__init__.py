"""The command line: `scalops run`, `scalops explain`.

Parsing needs click only; the language, the engine and rich are imported when a command uses them.
"""


def main() -> None:
    """Run the command `scalops` and end the process with its exit code."""
    from scalops.cli.commands import cli

    cli()
