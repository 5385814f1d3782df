"""The `ollama` package: nothing set but host and, for a virtual key, OLLAMA_API_KEY."""

import os

import ollama
from checks import ANSWER, BASE_URL, KEY, PROMPT, PROMPT_WORDS, REFUSED_KEY, USAGE, check, finish, refused


def connect(key):
    os.environ["OLLAMA_API_KEY"] = key
    return ollama.Client(host=f"{BASE_URL}/ollama")


def counts(answer):
    return {"input": answer.prompt_eval_count, "output": answer.eval_count}


client = connect(KEY)
ask = {"model": "llama3.2", "messages": [{"role": "user", "content": PROMPT}]}
chat = client.chat(**ask)
check("chat", {"text": ANSWER, "usage": USAGE}, text=chat.message.content, usage=counts(chat))

parts = list(client.chat(**ask, stream=True))
text = "".join(part.message.content for part in parts)
usage = [counts(part) for part in parts if part.done]
check("chat stream", {"text": ANSWER, "usage": [USAGE]}, text=text, usage=usage)

vectors = client.embed(model="all-minilm", input=[PROMPT, PROMPT])
check(
    "embed",
    {"vectors": [[0.5, -0.25, 0.125, 1.0]] * 2, "usage": 2 * PROMPT_WORDS},
    vectors=[list(vector) for vector in vectors.embeddings],
    usage=vectors.prompt_eval_count,
)

try:
    refusing = connect(REFUSED_KEY) if REFUSED_KEY else client
    refusing.chat(**(ask if REFUSED_KEY else {**ask, "model": "error-401"}))
    check("refused", {"error": True}, error=False)
except ollama.ResponseError as error:
    refused("refused", error, error.status_code, error.error)

finish()
