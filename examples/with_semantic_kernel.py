"""semantic-kernel: an agent on its chat completion service, each call of which takes the best key of the moment."""
# pyright: basic, reportMissingImports=false

import asyncio

from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

from keyrouter_openai import RoutedOpenAI


async def main() -> None:
    async with RoutedOpenAI() as client:
        service = OpenAIChatCompletion(ai_model_id="gpt-4o-mini", async_client=client)
        agent = ChatCompletionAgent(service=service, name="Greeter", instructions="Be brief.")
        print(await agent.get_response("Say hello in one word."))


asyncio.run(main())
