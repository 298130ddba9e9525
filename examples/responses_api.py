"""The responses API, plain and as a stream of events. Every resource of the SDK is routed in the same way."""

import asyncio

from keyrouter_openai import RoutedOpenAI


async def main() -> None:
    async with RoutedOpenAI() as client:
        response = await client.responses.create(model="gpt-4o-mini", input="Name the largest planet.")
        print(response.output_text)

        async with client.responses.stream(model="gpt-4o-mini", input="Name the smallest one.") as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    print(event.delta, end="", flush=True)
            print()


asyncio.run(main())
