"""llama-index-llms-openai: a model that streams, on the keys of a pool. Both of its clients share a router."""
# pyright: basic, reportMissingImports=false

import asyncio

from llama_index.llms.openai import OpenAI

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI


async def main() -> None:
    async with RoutedOpenAI() as client:
        sync = SyncRoutedOpenAI(router=client.router)
        llm = OpenAI(model="gpt-4o-mini", async_openai_client=client, openai_client=sync)
        async for part in await llm.astream_complete("Count from one to ten."):
            print(part.delta, end="", flush=True)
        print()


asyncio.run(main())
