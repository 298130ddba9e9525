"""Capacity for several customers: none can crowd out another, and batch work goes after all that is interactive."""

import asyncio
from collections.abc import Mapping

from keyrouter_openai import RoutedOpenAI, routing


async def ask(client: RoutedOpenAI, tags: Mapping[str, str], question: str) -> None:
    with routing(tags=tags):  # or client.with_routing(tags=tags).chat...
        answer = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": question}],
        )
    print(f"{tags['tenant']}: {answer.choices[0].message.content}")


async def main() -> None:
    # Where more is asked for than the pool can serve, acme gets twice as much of it as any other.
    async with RoutedOpenAI(tenant_weights={"acme": 2}) as client:
        await asyncio.gather(
            ask(client, {"tenant": "acme"}, "Where is my order?"),
            ask(client, {"tenant": "globex"}, "Can I change my address?"),
            *(ask(client, {"tenant": "globex", "priority": "batch"}, f"Sum up ticket {n}.") for n in range(3)),
        )


asyncio.run(main())
