"""A pool that is set up in code, of two contracts: most traffic goes to the larger one."""

import asyncio
import os

from keyrouter_openai import Key, RoutedOpenAI, route_of

keys = [
    Key(name="research", secret=os.environ["RESEARCH_API_KEY"], account="research", weight=3),
    Key(name="support", secret=os.environ["SUPPORT_API_KEY"], account="support", models=["gpt-4o*"]),
]


async def main() -> None:
    async with RoutedOpenAI(keys=keys, max_wait=20) as client:
        for model in ("gpt-4o-mini", "o4-mini"):
            response = await client.responses.create(model=model, input="Say hello in one word.")
            print(f"{model}, answered by {route_of(response).key}: {response.output_text}")

        support_only = client.with_routing(key="support")
        response = await support_only.responses.create(model="gpt-4o-mini", input="And goodbye?")
        print(f"answered by {route_of(response).key}: {response.output_text}")


asyncio.run(main())
