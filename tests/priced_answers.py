"""Answers of many providers, each in its own format, and what genai-prices itself says that they cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import genai_prices

TABLE_NAMES = {"gemini": "google", "xai": "x-ai"}
TIERS = ("default", "flex", "priority", "scale", "auto", None)
JANUARY, DECEMBER = (datetime(2026, month, 1, tzinfo=UTC).timestamp() for month in (1, 12))


@dataclass(frozen=True)
class Answer:
    """One answer: `body` as it is sent, and `used` in the words of genai-prices."""

    provider: str
    kind: str
    """Which call brings it: chat, responses, embeddings, images or transcriptions."""
    model: str
    used: Mapping[str, float]
    body: Mapping[str, Any]
    served: str | None = None
    """The model that it says has served, where that is not the one that was asked for."""
    tier: str | None = None
    stated: Decimal | None = None
    """US dollars that it says it costs."""
    stream: bool = False
    at: float = JANUARY

    def microusd(self) -> int:
        """What it costs: exact, and then rounded to the nearest micro-dollar, a half to the even one."""
        usd = self.stated
        if usd is None:
            usd = genai_prices.calc_price(
                genai_prices.Usage(**self.used),
                self.served or self.model,
                provider_id=TABLE_NAMES.get(self.provider, self.provider),
                genai_request_timestamp=datetime.fromtimestamp(self.at, UTC),
                price_context={"service_tier": self.tier} if self.tier else None,
            ).total_price
        return int((usd * 1_000_000).to_integral_value(ROUND_HALF_EVEN))

    def sent(self) -> bytes:
        """The answer on the wire."""
        if not self.stream:
            return json.dumps(self.body).encode()
        if self.kind == "responses":
            created = {"type": "response.created", "response": {**self.body, "usage": None, "service_tier": "auto"}}
            delta = {"type": "response.output_text.delta", "delta": "ok", "item_id": "m", "sequence_number": 1}
            done = {"type": "response.completed", "response": self.body}
            return b"".join(
                f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in (created, delta, done)
            )
        common = {name: value for name, value in self.body.items() if name not in ("usage", "choices")}
        delta = [{"index": 0, "delta": {"role": "assistant", "content": "ok"}, "finish_reason": None}]
        end = [{"index": 0, "delta": dict[str, str](), "finish_reason": "stop"}]
        chunks: list[dict[str, Any]] = [
            {**common, "object": "chat.completion.chunk", "choices": choices} for choices in (delta, end, [])
        ]
        chunks[-1]["usage"] = self.body["usage"]
        return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


class AnswerMaker:
    """Makes answers; those of one seed are always the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def make(self, count: int) -> list[Answer]:
        """So many, of all kinds in turn."""
        kinds = [getattr(self, name) for name in sorted(vars(AnswerMaker)) if name.startswith("of_")]
        made = [kinds[place % len(kinds)]() for place in range(count)]
        return [self._at_some_time(answer) for answer in made]

    def _at_some_time(self, answer: Answer) -> Answer:
        streamed = answer.kind in ("chat", "responses") and self._random.random() < 0.4
        return replace(answer, at=self._random.uniform(JANUARY, DECEMBER), stream=streamed)

    def _some(self, most: int) -> int:
        """A number up to `most`; often none, or all."""
        return self._random.choice((0, most, self._random.randint(0, most)))

    def _prompt(self) -> int:
        """A length, also around those where prices change."""
        at_edge = self._random.choice((200_000, 272_000)) + self._random.choice((-1, 0, 1, 50_000))
        return self._random.choice((self._random.randint(1, 40), self._random.randint(40, 90_000), at_edge))

    def _chat(self, provider: str, model: str, used: dict[str, float], usage: dict[str, Any], **more: Any) -> Answer:
        message = {"role": "assistant", "content": "ok"}
        body = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": more.get("served") or model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": usage,
        }
        if tier := more.get("tier"):
            body["service_tier"] = tier
        return Answer(provider, "chat", model, used, body, **more)

    def of_openai_chat(self) -> Answer:
        asked, served = self._random.choice(
            (
                ("gpt-4o", "gpt-4o-2024-08-06"),
                ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
                ("gpt-5", "gpt-5-2025-08-07"),
                ("gpt-5.4", "gpt-5.4"),
                ("gpt-5.6-sol", "gpt-5.6-sol"),
                ("o3", "o3-2025-04-16"),
            )
        )
        prompt, completion = self._prompt(), self._random.randint(1, 30_000)
        cached = self._some(prompt)
        written = self._some(prompt - cached)
        reasoning = self._some(completion)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
        }
        used: dict[str, float] = {
            "input_tokens": prompt,
            "output_tokens": completion,
            "cache_read_tokens": cached,
            "cache_write_tokens": written,
            "output_reasoning_tokens": reasoning,
        }
        return self._chat("openai", asked, used, usage, served=served, tier=self._random.choice(TIERS))

    def of_openai_audio_chat(self) -> Answer:
        prompt, completion = self._random.randint(1, 9000), self._random.randint(1, 9000)
        heard, said = self._some(prompt), self._some(completion)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": heard},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": said},
        }
        used: dict[str, float] = {"input_tokens": prompt, "output_tokens": completion}
        used |= {"input_audio_tokens": heard, "output_audio_tokens": said}
        return self._chat("openai", "gpt-audio", used, usage)

    def of_openai_responses(self) -> Answer:
        model = self._random.choice(("gpt-5", "gpt-5-mini", "gpt-5.4", "gpt-4.1-mini", "gpt-6-luna"))
        prompt, completion = self._prompt(), self._random.randint(1, 30_000)
        cached, searches = self._some(prompt), self._random.choice((0, 0, 1, 3))
        tier = self._random.choice(TIERS)
        text = {"type": "output_text", "text": '"type":"web_search_call"', "annotations": list[Any]()}
        message: dict[str, Any] = {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
        calls = [{"type": "web_search_call", "id": f"ws_{place}", "status": "completed"} for place in range(searches)]
        body = {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": model,
            "output": [*calls, message],
            "parallel_tool_calls": True,
            **({"service_tier": tier} if tier else {}),
            "tool_choice": "auto",
            "tools": [{"type": "web_search"}],
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": completion,
                "output_tokens_details": {"reasoning_tokens": self._some(completion)},
                "total_tokens": prompt + completion,
            },
            "metadata": {"service_tier": "priority"} if tier else {},  # the caller's own
        }
        used = {"input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": cached}
        return Answer("openai", "responses", model, {**used, "web_searches": searches}, body, tier=tier)

    def of_openai_embeddings(self) -> Answer:
        prompt = self._random.randint(1, 8000)
        model = self._random.choice(("text-embedding-3-small", "text-embedding-3-large"))
        usage = {"prompt_tokens": prompt, "total_tokens": prompt}
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        body = {"object": "list", "data": data, "model": model, "usage": usage}
        return Answer("openai", "embeddings", model, {"input_tokens": prompt}, body)

    def of_openai_images(self) -> Answer:
        model = self._random.choice(("gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5"))
        text, image, drawn, said = (self._random.randint(1, 6000) for _ in range(4))
        usage = {
            "input_tokens": text + image,
            "input_tokens_details": {"text_tokens": text, "image_tokens": image},
            "output_tokens": drawn + said,
            "output_tokens_details": {"image_tokens": drawn, "text_tokens": said},
            "total_tokens": text + image + drawn + said,
        }
        used = {"input_tokens": text + image, "input_image_tokens": image, "output_tokens": drawn + said}
        body = {"created": 1, "data": [{"b64_json": "AAAA"}], "usage": usage}
        return Answer("openai", "images", model, {**used, "output_image_tokens": drawn}, body)

    def of_openai_transcriptions(self) -> Answer:
        heard, text, said = (self._random.randint(1, 6000) for _ in range(3))
        usage = {
            "type": "tokens",
            "input_tokens": heard + text,
            "input_token_details": {"audio_tokens": heard, "text_tokens": text},
            "output_tokens": said,
            "total_tokens": heard + text + said,
        }
        used = {"input_tokens": heard + text, "input_audio_tokens": heard, "output_tokens": said}
        return Answer("openai", "transcriptions", "gpt-4o-transcribe", used, {"text": "ok", "usage": usage})

    def of_openai_and_groq_recordings(self) -> Answer:
        provider, model = self._random.choice((("openai", "whisper-1"), ("groq", "whisper-large-v3")))
        seconds = self._random.choice((3, 9.99, 75, round(self._random.uniform(0.1, 7200), 2)))
        used = {"audio_seconds": seconds, "input_audio_seconds": seconds}
        body = {"text": "ok", "usage": {"type": "duration", "seconds": seconds}}
        return Answer(provider, "transcriptions", model, used, body)

    def of_azure(self) -> Answer:
        prompt, completion = self._prompt(), self._random.randint(1, 4000)
        cached = self._some(prompt)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        used = {"input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": cached}
        details = {"prompt_tokens_details": {"cached_tokens": cached}}
        return self._chat("azure", "my-deployment", {**used}, usage | details, served="gpt-4o-2024-08-06")

    def of_anthropic(self) -> Answer:
        model = self._random.choice(("claude-sonnet-4-5", "claude-opus-4-5"))
        prompt, completion = self._prompt(), self._random.randint(1, 4000)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return self._chat("anthropic", model, {"input_tokens": prompt, "output_tokens": completion}, usage)

    def of_a_gateway_to_anthropic(self) -> Answer:
        """Anthropic's own format, which counts what was cached beside the rest of the prompt."""
        new, cached, short, long = (self._random.randint(0, 90_000) for _ in range(4))
        completion = self._random.randint(1, 4000)
        usage = {
            "input_tokens": new,
            "output_tokens": completion,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": short + long,
            "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
            "service_tier": "standard",
        }
        used: dict[str, float] = {
            "input_tokens": new + cached + short + long,
            "output_tokens": completion,
            "cache_read_tokens": cached,
            "cache_write_tokens": short + long,
            "cache_write_1h_tokens": long,
        }
        return self._chat("anthropic", "claude-sonnet-4-5", used, usage)

    def of_gemini(self) -> Answer:
        model = self._random.choice(("gemini-2.5-pro", "gemini-2.5-flash"))
        prompt, said, thought = self._prompt(), self._random.randint(1, 4000), self._some(9000)
        usage = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said + thought}
        return self._chat("gemini", model, {"input_tokens": prompt, "output_tokens": said + thought}, usage)

    def of_openrouter(self) -> Answer:
        model = self._random.choice(("openai/gpt-4o", "anthropic/claude-sonnet-4.5"))
        prompt, completion = self._prompt(), self._random.randint(1, 4000)
        cached = self._some(prompt)
        fee, upstream = (Decimal(self._random.randint(0, 10**6)).scaleb(-8) for _ in range(2))
        states, own_key = self._random.random() < 0.8, self._random.random() < 0.3
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if states:
            details = {"upstream_inference_cost": float(upstream)}
            usage |= {"cost": float(fee), "is_byok": own_key, "cost_details": details}
        stated = fee + upstream * own_key if states else None
        used: dict[str, float] = {
            "input_tokens": prompt,
            "output_tokens": completion,
            "cache_read_tokens": cached,
        }
        return self._chat("openrouter", model, used, usage, stated=stated)

    def of_groq(self) -> Answer:
        model = self._random.choice(("llama-3.3-70b-versatile", "openai/gpt-oss-120b"))
        prompt, completion = self._random.randint(1, 90_000), self._random.randint(1, 4000)
        cached = self._some(prompt)
        usage = {
            "queue_time": 0.1,
            "prompt_time": 0.2,
            "completion_time": 0.3,
            "total_time": 0.6,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        used = {"input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": cached}
        return self._chat("groq", model, {**used}, usage, tier="on_demand")

    def of_deepseek(self) -> Answer:
        model = self._random.choice(("deepseek-chat", "deepseek-reasoner"))
        prompt, completion = self._random.randint(1, 60_000), self._random.randint(1, 8000)
        hit = self._some(prompt)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_cache_hit_tokens": hit,
            "prompt_cache_miss_tokens": prompt - hit,
        }
        used = {"input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": hit}
        return self._chat("deepseek", model, {**used}, usage)

    def of_xai(self) -> Answer:
        model = self._random.choice(("grok-4", "grok-4-fast"))
        prompt, said, thought = self._prompt(), self._random.randint(1, 4000), self._some(9000)
        cached, ticks = self._some(prompt), self._random.choice((None, self._random.randint(0, 10**9)))
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": prompt + said + thought,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0, "image_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
            **({} if ticks is None else {"cost_in_usd_ticks": ticks}),
        }
        used: dict[str, float] = {"input_tokens": prompt, "output_tokens": said + thought, "cache_read_tokens": cached}
        stated = None if ticks is None else Decimal(ticks).scaleb(-10)
        return self._chat("xai", model, {**used, "output_reasoning_tokens": thought}, usage, stated=stated)

    def of_together_mistral_and_cerebras(self) -> Answer:
        provider, model = self._random.choice(
            (
                ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
                ("mistral", "mistral-small-latest"),
                ("cerebras", "gpt-oss-120b"),
                ("fireworks", "accounts/fireworks/models/gpt-oss-120b"),
            )
        )
        prompt, completion = self._random.randint(1, 60_000), self._random.randint(1, 8000)
        cached = self._some(prompt)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        used = {"input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": cached}
        return self._chat(provider, model, {**used}, {**usage, "cached_tokens": cached})


@contextmanager
def serving(answers: list[Answer]) -> Generator[str]:
    """A server on loopback that gives the answer whose place in the list a request names; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers[int(self.headers["X-Answer"])]
            data = answer.sent()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if answer.stream else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
