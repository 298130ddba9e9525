"""The providers that can be named in `Key.provider`, and what the router must know of each.

All of them speak OpenAI's wire format with a Bearer key. Base URLs are each provider's own documented one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. `base_url` is None where each key must bring its own."""

    name: str
    base_url: str | None
    stream_usage: bool
    """Whether `stream_options.include_usage` may be added to a stream: some servers reject unknown fields."""
    states_cost: bool = False
    """Whether its answers say what they cost, in a way that `core.body.read_stated` knows: then that counts."""


PROVIDERS: dict[str, Provider] = {
    p.name: p
    for p in (
        Provider("openai", "https://api.openai.com/v1", stream_usage=True),
        Provider("azure", None, stream_usage=True),
        Provider("anthropic", "https://api.anthropic.com/v1", stream_usage=True),
        Provider("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", stream_usage=True),
        Provider("openrouter", "https://openrouter.ai/api/v1", stream_usage=False, states_cost=True),  # always sends it
        Provider("groq", "https://api.groq.com/openai/v1", stream_usage=True),
        Provider("deepseek", "https://api.deepseek.com", stream_usage=True),
        Provider("mistral", "https://api.mistral.ai/v1", stream_usage=False),
        Provider("xai", "https://api.x.ai/v1", stream_usage=True, states_cost=True),
        Provider("together", "https://api.together.xyz/v1", stream_usage=False),  # sends it unasked
        Provider("fireworks", "https://api.fireworks.ai/inference/v1", stream_usage=False),
        Provider("cerebras", "https://api.cerebras.ai/v1", stream_usage=True),
        Provider("ollama", "http://localhost:11434/v1", stream_usage=True),
        Provider("vllm", None, stream_usage=True),
        Provider("compatible", None, stream_usage=False),
    )
}
