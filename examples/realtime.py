"""A realtime session over a websocket: a key that cannot open it is replaced, and what it used is recorded."""

import asyncio

from keyrouter_openai import RoutedOpenAI


async def main() -> None:
    async with RoutedOpenAI() as client:
        async with client.realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "Say hello in one word."}],
                }
            )
            await connection.response.create()
            async for event in connection:
                if event.type == "response.output_text.delta":
                    print(event.delta, end="", flush=True)
                elif event.type == "response.done":
                    break

        session = client.ledger.attempts(limit=1)[0]
        print(f"\n{session['endpoint']} with {session['key']}: {session['completion_tokens']} completion tokens")


asyncio.run(main())
