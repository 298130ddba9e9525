"""What the router decides, as it happens, and how the keys stand in the end."""

import asyncio

from keyrouter_openai import RoutedOpenAI
from keyrouter_openai.events import AccountParked, AttemptEnded, Event, KeyStateChanged


def tell(event: Event) -> None:
    if isinstance(event, AttemptEnded):
        print(f"{event.key}: {event.outcome} after {event.seconds:.2f} s")
    elif isinstance(event, AccountParked | KeyStateChanged):
        print(event)


async def main() -> None:
    async with RoutedOpenAI() as client:
        client.router.on_event(tell)
        await client.responses.create(model="gpt-4o-mini", input="Say hello in one word.")
        for key in client.router.status().keys:
            print(f"{key.name} of account {key.account} is {key.state}")


asyncio.run(main())
