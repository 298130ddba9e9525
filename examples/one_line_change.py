"""A program written for the official SDK. Only its import was changed: it was `from openai import AsyncOpenAI`."""

import asyncio

from keyrouter_openai import RoutedOpenAI as AsyncOpenAI


async def main() -> None:
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Say hello in one word."}],
        )
        print(answer.choices[0].message.content)


asyncio.run(main())
