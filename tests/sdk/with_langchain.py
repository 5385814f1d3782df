"""LangChain's chat models of OpenAI and Anthropic: nothing set but base URL and key."""

import functools
import operator

import anthropic
import openai
from checks import ANSWER, BASE_URL, KEY, PROMPT, REFUSED_KEY, USAGE, check, finish, refused
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI


def gpt(key, model="gpt-4o-mini"):
    return ChatOpenAI(base_url=f"{BASE_URL}/openai/v1", api_key=key, model=model, max_retries=0)


def claude(key, model="claude-opus-4-6"):
    return ChatAnthropic(base_url=f"{BASE_URL}/anthropic", api_key=key, model=model, max_tokens=1000, max_retries=0)


def counts(message):
    usage = message.usage_metadata
    return usage and {"input": usage["input_tokens"], "output": usage["output_tokens"]}


def sum_of(chunks):
    return functools.reduce(operator.add, chunks)


for name, connect, unauthorized in [
    ("openai", gpt, openai.AuthenticationError),
    ("anthropic", claude, anthropic.AuthenticationError),
]:
    model = connect(KEY)
    message = model.invoke(PROMPT)
    check(f"{name} invoke", {"text": ANSWER, "usage": USAGE}, text=message.text, usage=counts(message))

    # At a base URL of its own, ChatOpenAI does not ask a stream for usage: then it has none to show.
    for asking, usage in [({}, None if name == "openai" else USAGE), ({"stream_usage": True}, USAGE)]:
        message = sum_of(model.stream(PROMPT, **asking))
        check(f"{name} stream {asking}", {"text": ANSWER, "usage": usage}, text=message.text, usage=counts(message))

    try:
        (connect(REFUSED_KEY) if REFUSED_KEY else connect(KEY, "error-401")).invoke(PROMPT)
        check("refused", {"error": True}, error=False)
    except unauthorized as error:
        refused("refused", error, error.status_code, error.message)

finish()
