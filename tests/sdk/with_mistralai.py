"""The `mistralai` package: nothing set but server URL and key."""

from checks import ANSWER, BASE_URL, KEY, PROMPT, REFUSED_KEY, USAGE, check, finish, refused
from mistralai.client import Mistral
from mistralai.client.errors import SDKError


def connect(key):
    return Mistral(server_url=f"{BASE_URL}/mistral", api_key=key)


def counts(usage):
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens}


client = connect(KEY)
ask = {"model": "mistral-small-2506", "messages": [{"role": "user", "content": PROMPT}]}
chat = client.chat.complete(**ask)
check("chat", {"text": ANSWER, "usage": USAGE}, text=chat.choices[0].message.content, usage=counts(chat.usage))

# Usage is asked for by nobody and comes with the reason to finish: nothing may be added, nothing taken away.
chunks = [event.data for event in client.chat.stream(**ask)]
check(
    "chat stream",
    {"text": ANSWER, "usage": [USAGE], "finish": ["stop"], "without_choices": 0},
    text="".join(chunk.choices[0].delta.content for chunk in chunks),
    usage=[counts(chunk.usage) for chunk in chunks if chunk.usage],
    finish=[chunk.choices[0].finish_reason for chunk in chunks if chunk.usage],
    without_choices=sum(not chunk.choices for chunk in chunks),
)

try:
    refusing = connect(REFUSED_KEY) if REFUSED_KEY else client
    refusing.chat.complete(**(ask if REFUSED_KEY else {**ask, "model": "error-401"}))
    check("refused", {"error": True}, error=False)
except SDKError as error:
    refused("refused", error, error.status_code, error.body)

finish()
