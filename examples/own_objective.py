"""An objective of your own: long answers where they cost least, short ones where they begin soonest."""

import asyncio
import os

from keyrouter_openai import Key, RoutedOpenAI, route_of
from keyrouter_openai.core.candidate import Candidate
from keyrouter_openai.core.model import RouteRequest


class BySize:
    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        """Of the accounts that can start a call now, the one with the lowest score gets it."""
        return candidate.price_multiplier if request.estimate().answer > 1000 else candidate.latency


keys = [
    Key(name="research", secret=os.environ["RESEARCH_API_KEY"], account="research", price_multiplier=0.5),
    Key(name="support", secret=os.environ["SUPPORT_API_KEY"], account="support"),
]


async def main() -> None:
    async with RoutedOpenAI(keys=keys, objective=BySize()) as client:
        for most in (100, 4000):
            response = await client.responses.create(
                model="gpt-4o-mini", input="Describe the sea.", max_output_tokens=most
            )
            print(f"up to {most} tokens, answered by {route_of(response).key}: {response.output_text}")


asyncio.run(main())
