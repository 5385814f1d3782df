"""The `litellm` package as a client: nothing set but base URL and key."""

import asyncio
import os

from checks import ANSWER, BASE_URL, KEY, PROMPT, REFUSED_KEY, USAGE, check, finish, refused

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no price list from the network
import litellm  # noqa: E402

litellm.suppress_debug_info = True

messages = [{"role": "user", "content": PROMPT}]
OPENAI = {"api_base": f"{BASE_URL}/openai/v1", "messages": messages, "max_retries": 0}
ANTHROPIC = {"api_base": f"{BASE_URL}/anthropic", "messages": messages, "max_retries": 0}


def counts(usage):
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens}


async def main():
    for name, model, ask in [("openai", "gpt-4o-mini", OPENAI), ("anthropic", "claude-opus-4-6", ANTHROPIC)]:
        ask = {**ask, "api_key": KEY}
        chat = litellm.completion(model=f"{name}/{model}", **ask)
        text = chat.choices[0].message.content
        check(f"{name} completion", {"text": ANSWER, "usage": USAGE}, text=text, usage=counts(chat.usage))

        chat = await litellm.acompletion(model=f"{name}/{model}", **ask)
        text = chat.choices[0].message.content
        check(f"{name} acompletion", {"text": ANSWER, "usage": USAGE}, text=text, usage=counts(chat.usage))

        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = [chunk async for chunk in await litellm.acompletion(model=f"{name}/{model}", **ask, **options)]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        usage = [counts(chunk.usage) for chunk in chunks if getattr(chunk, "usage", None)]
        check(f"{name} stream", {"text": ANSWER, "usage": [USAGE]}, text=text, usage=usage)

        model = model if REFUSED_KEY else "error-401"
        try:
            litellm.completion(model=f"{name}/{model}", **{**ask, "api_key": REFUSED_KEY or KEY})
            check("refused", {"error": True}, error=False)
        except litellm.AuthenticationError as error:
            refused("refused", error, error.status_code, error.message)


asyncio.run(main())
finish()
