"""The `openai` package's Azure client: nothing set but endpoint and key."""

import openai
from checks import ANSWER, BASE_URL, KEY, PROMPT, PROMPT_WORDS, REFUSED_KEY, USAGE, check, finish, refused

client = openai.AzureOpenAI(azure_endpoint=f"{BASE_URL}/azure", api_key=KEY, api_version="2024-10-21")
ask = {"model": "our-gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}


def counts(usage):
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens}


chat = client.chat.completions.create(**ask)
check("chat", {"text": ANSWER, "usage": USAGE}, text=chat.choices[0].message.content, usage=counts(chat.usage))

# The one event without choices is Azure's own, of its content filter; usage that nobody asked for must not appear.
for name, options, usage, without_choices in [
    ("chat stream", {}, [], 1),
    ("chat stream with usage", {"stream_options": {"include_usage": True}}, [USAGE], 2),
]:
    chunks = list(client.chat.completions.create(**ask, stream=True, **options))
    check(
        name,
        {"text": ANSWER, "usage": usage, "without_choices": without_choices},
        text="".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        usage=[counts(chunk.usage) for chunk in chunks if chunk.usage],
        without_choices=sum(not chunk.choices for chunk in chunks),
    )

embedding = client.embeddings.create(model="our-embeddings", input=PROMPT)
check("embeddings", {"usage": PROMPT_WORDS}, usage=embedding.usage.prompt_tokens)

# A token of Entra ID is a bearer.
entra = openai.AzureOpenAI(
    azure_endpoint=f"{BASE_URL}/azure", azure_ad_token_provider=lambda: KEY, api_version="2024-10-21"
)
chat = entra.chat.completions.create(**ask)
check("chat as Entra ID", {"usage": USAGE}, usage=counts(chat.usage))

try:
    refusing = client.with_options(api_key=REFUSED_KEY) if REFUSED_KEY else client
    refusing.chat.completions.create(**(ask if REFUSED_KEY else {**ask, "model": "error-401"}))
    check("refused", {"error": True}, error=False)
except openai.AuthenticationError as error:
    refused("refused", error, error.status_code, (error.body or {}).get("message"))

finish()
