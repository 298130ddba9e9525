"""Run a provider simulator as a command: `python -m keyrouter_openai.testing`."""

from __future__ import annotations

import threading

import click

from .model import Latency, SimAccount
from .simulator import ProviderSimulator


@click.command(epilog="Example: python -m keyrouter_openai.testing --accounts 3 --keys 2 --rpm 60 --tpm 10000")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port on 127.0.0.1; 0 picks a free one.",
)
@click.option("--accounts", default=1, show_default=True, help="How many accounts.")
@click.option("--keys", default=1, show_default=True, help="Keys for each account.")
@click.option("--rpm", type=int, help="Requests per minute for each account and model. Default: no limit.")
@click.option("--tpm", type=int, help="Tokens per minute for each account and model. Default: no limit.")
@click.option("--credit-calls", type=int, help="Calls until each account runs dry. Default: never.")
@click.option("--latency", default=0.0, show_default=True, help="Median seconds to the first byte.")
@click.option("--time-scale", default=1.0, show_default=True, help="60: a minute passes in a second.")
@click.option("--seed", default=0, show_default=True, help="Of the keys' secrets and all else that is random.")
def main(
    port: int,
    accounts: int,
    keys: int,
    rpm: int | None,
    tpm: int | None,
    credit_calls: int | None,
    latency: float,
    time_scale: float,
    seed: int,
) -> None:
    """Serve a simulated OpenAI-like provider on this machine until Ctrl-C.

    It prints the base URL, the keys to use, and the admin key of each organization, which sees what it is billed.
    """
    specs = [
        SimAccount(f"account-{number}", keys=keys, rpm=rpm, tpm=tpm, credit_calls=credit_calls)
        for number in range(1, accounts + 1)
    ]
    try:
        simulator = ProviderSimulator(
            specs, latency=Latency(first_byte=latency), seed=seed, time_scale=time_scale, port=port
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        with simulator:
            click.echo(f"base URL  {simulator.url}")
            for label, secret in simulator.keys.items():
                click.echo(f"{label:<24}  {secret}")
            for organization, secret in simulator.admin_keys.items():
                click.echo(f"{f'admin of {organization}':<24}  {secret}")
            click.echo("Ctrl-C ends it.")
            threading.Event().wait()
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise click.ClickException(f"cannot listen on port {port}: {error.strerror}; choose another --port") from None


if __name__ == "__main__":
    main()
