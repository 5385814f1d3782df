"""The `boto3` package with a Bedrock API key: nothing set but endpoint URL and AWS_BEARER_TOKEN_BEDROCK."""

import json
import os
from urllib.parse import urlsplit

import boto3
import tls
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from checks import ANSWER, BASE_URL, KEY, PROMPT, REFUSED_KEY, USAGE, check, finish, refused

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
place = urlsplit(BASE_URL)
https_url, certificate, clean_up = tls.in_front_of(place.hostname, place.port)


def connect(key):
    os.environ["AWS_BEARER_TOKEN_BEDROCK"] = key
    endpoint = f"{https_url}/bedrock"
    return boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=endpoint, verify=str(certificate))


def counts(usage):
    return {"input": usage["inputTokens"], "output": usage["outputTokens"]}


def said(answer):
    return answer["output"]["message"]["content"][0]["text"]


client = connect(KEY)
ask = {"modelId": MODEL, "messages": [{"role": "user", "content": [{"text": PROMPT}]}]}
answer = client.converse(**ask)
check("converse", {"text": ANSWER, "usage": USAGE}, text=said(answer), usage=counts(answer["usage"]))

events = list(client.converse_stream(**ask)["stream"])
text = "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)
usage = [counts(event["metadata"]["usage"]) for event in events if "metadata" in event]
check("converse stream", {"text": ANSWER, "usage": [USAGE]}, text=text, usage=usage)

messages = [{"role": "user", "content": PROMPT}]
body = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1000, "messages": messages})
answer = client.invoke_model(modelId=MODEL, body=body)
message = json.loads(answer["body"].read())
headers = answer["ResponseMetadata"]["HTTPHeaders"]
check(
    "invoke",
    {"text": ANSWER, "usage": USAGE, "in_headers": USAGE},
    text=message["content"][0]["text"],
    usage={"input": message["usage"]["input_tokens"], "output": message["usage"]["output_tokens"]},
    in_headers={kind: int(headers[f"x-amzn-bedrock-{kind}-token-count"]) for kind in USAGE},
)

chunks = client.invoke_model_with_response_stream(modelId=MODEL, body=body)["body"]
events = [json.loads(chunk["chunk"]["bytes"]) for chunk in chunks]
text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
metrics = events[-1]["amazon-bedrock-invocationMetrics"]
usage = {"input": metrics["inputTokenCount"], "output": metrics["outputTokenCount"]}
check("invoke stream", {"text": ANSWER, "usage": USAGE}, text=text, usage=usage)

# Over plain HTTP boto3 sends no API key by itself; what puts the header there can be the application.
plain = Config(signature_version=UNSIGNED)
plain = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=f"{BASE_URL}/bedrock", config=plain)
plain.meta.events.register("before-send", lambda request, **_: request.headers.__setitem__("authorization", f"Bearer {KEY}"))
answer = plain.converse(**ask)
check("converse over plain http", {"text": ANSWER, "usage": USAGE}, text=said(answer), usage=counts(answer["usage"]))

try:
    refusing = connect(REFUSED_KEY) if REFUSED_KEY else client
    refusing.converse(**(ask if REFUSED_KEY else {**ask, "modelId": "error-401"}))
    check("refused", {"error": True}, error=False)
except ClientError as error:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    refused("refused", error, status, error.response["Error"]["Message"])

clean_up()
finish()
