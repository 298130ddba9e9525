"""A streamed answer. If a key fails before the first word, another one takes over, and the stream stays clean."""

import asyncio

from keyrouter_openai import RoutedOpenAI, route_of


async def main() -> None:
    async with RoutedOpenAI() as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Count from one to ten."}],
            stream=True,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)

        route = route_of(stream)
        tokens = route.usage.completion if route.usage else "unknown"
        print(f"\n{len(route.attempts)} attempt(s), answered by {route.key}; completion tokens: {tokens}")


asyncio.run(main())
