"""The `google-genai` package: nothing set but base URL and key."""

from checks import ANSWER, BASE_URL, KEY, PROMPT, REFUSED_KEY, USAGE, check, finish, refused
from google import genai
from google.genai import errors, types


def connect(key):
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=BASE_URL))


def counts(usage):
    return {"input": usage.prompt_token_count, "output": usage.candidates_token_count}


client = connect(KEY)
answer = client.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)
check("generate", {"text": ANSWER, "usage": USAGE}, text=answer.text, usage=counts(answer.usage_metadata))

chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents=PROMPT))
text = "".join(chunk.text or "" for chunk in chunks)
check("generate stream", {"text": ANSWER, "usage": USAGE}, text=text, usage=counts(chunks[-1].usage_metadata))

try:
    refusing = connect(REFUSED_KEY) if REFUSED_KEY else client
    refusing.models.generate_content(model="gemini-2.5-flash" if REFUSED_KEY else "error-401", contents=PROMPT)
    check("refused", {"error": True}, error=False)
except errors.APIError as error:
    refused("refused", error, error.code, error.message)

finish()
