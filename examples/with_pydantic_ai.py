"""pydantic-ai: an agent with typed answers, each asked for with the best key of the moment."""
# pyright: basic, reportMissingImports=false

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from keyrouter_openai import RoutedOpenAI


async def main() -> None:
    async with RoutedOpenAI() as client:
        model = OpenAIResponsesModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=client))
        for city in (await Agent(model, output_type=list[str]).run("Name a city.")).output:
            print(city)


asyncio.run(main())
