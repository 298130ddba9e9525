"""The command `keyrouter-openai`: a module for each of its commands, imported when that command is called.

keys      add, list, remove, enable, disable, test; import_env is a command of it, probe makes the test call
status    what the ledger knows of the keys of a pool
usage     what the attempts on record add up to; report makes its page, charts the bars on it;
          sums adds its rows up
top       what each key does now; frame draws it, keyboard says when to end
reconcile the ledger against the provider's own bill
doctor    what is installed and set up, and what is wrong with it
demo      a load on a simulated provider, with one key and with a pool; contest plays it
simulate  the traffic on record on another pool; traffic reads it, setting makes the pools, whatif plays
keystore  the registry of keys and the vault of their secrets, kept in step
output    tables and JSON
"""

from __future__ import annotations

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

_COMMANDS = {
    "keys": "Add, list, test and remove the keys of a pool.",
    "status": "Show how each key of a pool last fared.",
    "usage": "Add up the attempts on record.",
    "top": "Show live what each key does.",
    "ledger": "Clear away what is old, and check what is kept.",
    "reconcile": "Compare the ledger with the provider's bill.",
    "doctor": "Check the installation and say how to mend it.",
    "demo": "Show what a pool of keys buys, on a simulated provider.",
    "simulate": "Tell what would become of the traffic if the pool were another.",
}
"""The commands and what they do, each an object of that name in the module of that name."""


class _WrongInput(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Imports a command when it is called: the SDK alone takes most of a second, which `--help` need not."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return getattr(import_module(f".{cmd_name}", __name__), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            from keyrouter_openai.errors import KeyRouterError

            try:
                return super().invoke(ctx)
            except KeyRouterError as error:
                raise _WrongInput(str(error)) from None
        except BrokenPipeError:
            raise  # click's own way: whoever reads has had enough
        except OSError as error:
            raise click.ClickException(f"cannot read or write: {error.strerror or error}") from None
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nInterrupted.", err=True)
            raise click.exceptions.Exit(130) from None


@click.group(cls=_Commands)
@click.version_option(package_name="keyrouter-openai")
def main() -> None:
    """Manage pools of API keys, and see how they fare.

    \b
    Example:
      keyrouter-openai keys add work          # asks for the secret
      keyrouter-openai keys test
      keyrouter-openai usage --by model --since 7d

    Results go to standard output, as a table or with --json, and all else to standard error. Exit codes:
    0 done, 1 a check failed, 2 wrong input or settings (nothing was changed), 130 interrupted.

    The keys' names and the record of attempts are in the file KEYROUTER_DB, by default in the user data folder.
    Secrets are in the vault KEYROUTER_VAULT (keyring, file, file:PATH or env), by default the OS keyring.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter shows a question mark
