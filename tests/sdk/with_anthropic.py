"""The `anthropic` package: nothing set but base URL and key."""

import anthropic
from checks import ANSWER, BASE_URL, KEY, PROMPT, REFUSED_KEY, USAGE, check, finish, refused

client = anthropic.Anthropic(base_url=BASE_URL, api_key=KEY)
ask = {"model": "claude-opus-4-6", "max_tokens": 1000, "messages": [{"role": "user", "content": PROMPT}]}


def counts(usage):
    return {"input": usage.input_tokens, "output": usage.output_tokens}


message = client.messages.create(**ask)
check("messages", {"text": ANSWER, "usage": USAGE}, text=message.content[-1].text, usage=counts(message.usage))

with client.messages.stream(**ask) as stream:
    text = "".join(stream.text_stream)
    message = stream.get_final_message()
check("messages stream", {"text": ANSWER, "usage": USAGE}, text=text, usage=counts(message.usage))

ask_thinking = {**ask, "thinking": {"type": "adaptive"}}
with client.messages.stream(**ask_thinking) as stream:
    kinds = [block.type for block in stream.get_final_message().content]
    usage = counts(stream.get_final_message().usage)
thought = {**USAGE, "output": USAGE["output"] + len("let me think first".split())}
check("messages stream with thinking", {"kinds": ["thinking", "text"], "usage": thought}, kinds=kinds, usage=usage)

counted = client.messages.count_tokens(model=ask["model"], messages=ask["messages"]).input_tokens
check("count tokens", {"usage": USAGE["input"]}, usage=counted)

try:
    refusing = client.with_options(api_key=REFUSED_KEY) if REFUSED_KEY else client
    refusing.messages.create(**(ask if REFUSED_KEY else {**ask, "model": "error-401"}))
    check("refused", {"error": True}, error=False)
except anthropic.AuthenticationError as error:
    refused("refused", error, error.status_code, (error.body or {}).get("error", {}).get("message"))

finish()
