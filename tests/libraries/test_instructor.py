"""instructor: answers as objects, whole and as they grow, and its asking again when an object will not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI

from .conftest import FORECAST, HELLO, MODEL, City

instructor = pytest.importorskip("instructor", reason="instructor is not installed")


def asking(text: str, response_model: type[BaseModel] | None) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "response_model": response_model}


async def test_plain(client: RoutedOpenAI, sync_client: SyncRoutedOpenAI) -> None:
    answer = await instructor.from_openai(client).chat.completions.create(**asking(HELLO, None))
    assert answer.choices[0].message.content == HELLO
    answer = instructor.from_openai(sync_client).chat.completions.create(**asking(HELLO, None))
    assert answer.choices[0].message.content == HELLO


async def test_stream(client: RoutedOpenAI, sync_client: SyncRoutedOpenAI) -> None:
    whole = City(name="Oslo", inhabitants=4).model_dump()
    grown = [city async for city in instructor.from_openai(client).create_partial(**asking("Oslo", City))]
    assert (len(grown) > 1, grown[-1].model_dump()) == (True, whole)
    grown = list(instructor.from_openai(sync_client).create_partial(**asking("Oslo", City)))
    assert (len(grown) > 1, grown[-1].model_dump()) == (True, whole)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "RESPONSES_TOOLS"])
async def test_structured_output(client: RoutedOpenAI, sync_client: SyncRoutedOpenAI, mode: str) -> None:
    kind = instructor.Mode[mode]
    city = await instructor.from_openai(client, mode=kind).create(**asking("Oslo", City))
    assert (city.name, city.inhabitants) == ("Oslo", 4)  # of a subclass, so that it is not equal to a City
    city = instructor.from_openai(sync_client, mode=kind).create(**asking("Oslo", City))
    assert (city.name, city.inhabitants) == ("Oslo", 4)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_key_dies_before_a_second_turn(
    client: RoutedOpenAI, sync_client: SyncRoutedOpenAI, get_weather: Callable[[str], str], sync: bool
) -> None:
    class Forecast(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def must_be_a_forecast(cls, text: str) -> str:
            if FORECAST not in text:
                raise ValueError(get_weather(text))
            return text

    question = asking("Oslo", Forecast)
    if sync:
        forecast = instructor.from_openai(sync_client).create(**question)
    else:
        forecast = await instructor.from_openai(client).create(**question)
    assert FORECAST in forecast.text
