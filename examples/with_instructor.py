"""instructor: objects out of text. If one will not do it asks again, with the best key of that moment."""
# pyright: basic, reportMissingImports=false

import instructor
from pydantic import BaseModel

from keyrouter_openai import SyncRoutedOpenAI


class City(BaseModel):
    name: str


with SyncRoutedOpenAI() as client:
    city = instructor.from_openai(client).create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Oslo"}],
        response_model=City,
    )
    print(city.name)
