"""Files, and what is made of them: calls that name a file go to the account that has it."""

import asyncio

from keyrouter_openai import RoutedOpenAI, route_of


async def main() -> None:
    async with RoutedOpenAI() as client:
        file = await client.files.create(file=("notes.txt", b"We meet on Monday."), purpose="user_data")
        response = await client.responses.create(
            model="gpt-4o-mini",
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_file", "file_id": file.id},
                        {"type": "input_text", "text": "When do we meet?"},
                    ],
                }
            ],
        )
        print(f"{response.output_text} Asked where the file is: {route_of(response).key == route_of(file).key}")

        # A list shows what one account has; this one walks through all accounts.
        async for listed in client.with_routing(account="*").files.list():
            print(listed.filename)


asyncio.run(main())
