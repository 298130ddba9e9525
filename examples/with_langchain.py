"""langchain-openai: a model that streams. It wants both clients, whichever of them it will use; they share a router."""
# pyright: basic, reportMissingImports=false

from langchain_openai import ChatOpenAI

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI

with SyncRoutedOpenAI() as sync:
    client = RoutedOpenAI(router=sync.router)
    model = ChatOpenAI(
        model="gpt-4o-mini",
        client=sync.chat.completions,
        root_client=sync,
        async_client=client.chat.completions,
        root_async_client=client,
    )
    for chunk in model.stream("Count from one to ten."):
        print(chunk.text, end="", flush=True)
    print()
