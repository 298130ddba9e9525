"""The same without an event loop. One client serves all threads, so they share what is known of the keys."""

from concurrent.futures import ThreadPoolExecutor

from keyrouter_openai import SyncRoutedOpenAI

QUESTIONS = ["What is the capital of France?", "What is the capital of Peru?", "What is the capital of Japan?"]


def ask(question: str) -> str | None:
    answer = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": question}],
    )
    return answer.choices[0].message.content


with SyncRoutedOpenAI() as client, ThreadPoolExecutor() as threads:
    for text in threads.map(ask, QUESTIONS):
        print(text)
