"""smolagents: an agent with a tool, each step of which takes the best key of the moment."""

# pyright: basic, reportMissingImports=false
from smolagents import OpenAIModel, ToolCallingAgent, tool

from keyrouter_openai import SyncRoutedOpenAI


@tool
def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: its name."""
    return "Snow, and 3 degrees."


with SyncRoutedOpenAI() as client:
    agent = ToolCallingAgent([get_weather], OpenAIModel("gpt-4o-mini", client=client), verbosity_level=0)
    print(agent.run("What does get_weather say of Oslo?"))
