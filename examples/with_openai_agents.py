"""openai-agents: each turn takes the best key of the moment. A pool has no one key that traces could go with."""
# pyright: basic, reportMissingImports=false

import asyncio

from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled

from keyrouter_openai import RoutedOpenAI


async def main() -> None:
    set_tracing_disabled(disabled=True)  # or: set_tracing_export_api_key
    async with RoutedOpenAI() as client:
        set_default_openai_client(client, use_for_tracing=False)
        tool = function_tool(lambda city: "Snow, and 3 degrees.", name_override="get_weather")
        agent = Agent(name="Forecaster", model="gpt-4o-mini", tools=[tool])
        print((await Runner.run(agent, "What does get_weather say of Oslo?")).final_output)


asyncio.run(main())
