"""The `openai` package: nothing set but base URL and key."""

import openai
from checks import ANSWER, BASE_URL, KEY, PROMPT, PROMPT_WORDS, REFUSED_KEY, USAGE, check, finish, refused

client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key=KEY)
messages = [{"role": "user", "content": PROMPT}]


def counts(usage):
    return usage and {"input": usage.prompt_tokens, "output": usage.completion_tokens}


chat = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
check("chat", {"text": ANSWER, "usage": USAGE}, text=chat.choices[0].message.content, usage=counts(chat.usage))

# Without the option a provider reports nothing, and nothing must appear that the application did not ask for.
chunks = list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
check(
    "chat stream",
    {"text": ANSWER, "usage": [], "without_choices": 0},
    text=text,
    usage=[counts(chunk.usage) for chunk in chunks if chunk.usage],
    without_choices=sum(not chunk.choices for chunk in chunks),
)

chunks = list(
    client.chat.completions.create(
        model="gpt-4o-mini", messages=messages, stream=True, stream_options={"include_usage": True}
    )
)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
check(
    "chat stream with usage",
    {"text": ANSWER, "usage": [USAGE], "without_choices": 1},
    text=text,
    usage=[counts(chunk.usage) for chunk in chunks if chunk.usage],
    without_choices=sum(not chunk.choices for chunk in chunks),
)

response = client.responses.create(model="gpt-4o-mini", input=PROMPT)
usage = {"input": response.usage.input_tokens, "output": response.usage.output_tokens}
check("responses", {"text": ANSWER, "usage": USAGE}, text=response.output_text, usage=usage)

with client.responses.stream(model="gpt-4o-mini", input=PROMPT) as stream:
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    response = stream.get_final_response()
usage = {"input": response.usage.input_tokens, "output": response.usage.output_tokens}
check("responses stream", {"text": ANSWER, "usage": USAGE}, text=text, usage=usage)

embedding = client.embeddings.create(model="text-embedding-3-small", input=PROMPT)
check(
    "embeddings",
    {"vector": [0.5, -0.25, 0.125, 1.0], "usage": PROMPT_WORDS},
    vector=embedding.data[0].embedding,
    usage=embedding.usage.prompt_tokens,
)

try:
    refusing = client.with_options(api_key=REFUSED_KEY) if REFUSED_KEY else client
    refusing.chat.completions.create(model="gpt-4o-mini" if REFUSED_KEY else "error-401", messages=messages)
    check("refused", {"error": True}, error=False)
except openai.AuthenticationError as error:
    refused("refused", error, error.status_code, (error.body or {}).get("message"))

finish()
