"""The `cohere` package: nothing set but base URL and key."""

import cohere
from checks import ANSWER, BASE_URL, KEY, PROMPT, PROMPT_WORDS, REFUSED_KEY, USAGE, check, finish, refused


def connect(key):
    return cohere.ClientV2(base_url=f"{BASE_URL}/cohere", api_key=key)


def counts(usage):
    return {"input": int(usage.tokens.input_tokens), "output": int(usage.tokens.output_tokens)}


client = connect(KEY)
ask = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": PROMPT}]}
chat = client.chat(**ask)
check("chat", {"text": ANSWER, "usage": USAGE}, text=chat.message.content[0].text, usage=counts(chat.usage))

events = list(client.chat_stream(**ask))
text = "".join(event.delta.message.content.text for event in events if event.type == "content-delta")
usage = [counts(event.delta.usage) for event in events if event.type == "message-end"]
check("chat stream", {"text": ANSWER, "usage": [USAGE]}, text=text, usage=usage)

vectors = client.embed(
    model="embed-v4.0", input_type="search_document", embedding_types=["float"], texts=[PROMPT, PROMPT]
)
check(
    "embed",
    {"vectors": [[0.5, -0.25, 0.125, 1.0]] * 2, "usage": 2 * PROMPT_WORDS},
    vectors=vectors.embeddings.float_,
    usage=int(vectors.meta.billed_units.input_tokens),
)

ranks = client.rerank(model="rerank-v3.5", query=PROMPT, documents=["one", "two"])
order = [result.index for result in ranks.results]
check("rerank", {"order": [0, 1], "searches": 1}, order=order, searches=int(ranks.meta.billed_units.search_units))

try:
    refusing = connect(REFUSED_KEY) if REFUSED_KEY else client
    refusing.chat(**(ask if REFUSED_KEY else {**ask, "model": "error-401"}))
    check("refused", {"error": True}, error=False)
except cohere.UnauthorizedError as error:
    message = error.body.get("message") if isinstance(error.body, dict) else getattr(error.body, "message", None)
    refused("refused", error, error.status_code, message)

finish()
