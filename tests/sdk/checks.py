"""What the SDK scripts share: where to call, what the fake provider promises, one JSON line a check.

TOKENMETER_SDK_BASE_URL  tokenmeter's base URL or the fake's, without a path but perhaps an upstream's name; scripts
                         whose paths do not tell the upstream name it themselves
TOKENMETER_SDK_KEY       the credential, sent where the SDK puts it
TOKENMETER_SDK_REFUSED_KEY  a credential that is refused; without it the fake's own 401 is asked for
"""

import json
import os
import sys

BASE_URL = os.environ["TOKENMETER_SDK_BASE_URL"].rstrip("/")
KEY = os.environ.get("TOKENMETER_SDK_KEY", "sk-fake")
REFUSED_KEY = os.environ.get("TOKENMETER_SDK_REFUSED_KEY")

PROMPT = "how many words are in here"
PROMPT_WORDS = len(PROMPT.split())
ANSWER = f"echo {PROMPT}"
ANSWER_WORDS = len(ANSWER.split())
USAGE = {"input": PROMPT_WORDS, "output": ANSWER_WORDS}

_failed = []


def check(name, expected, **saw):
    """Prints what was seen, and whether it is what was promised."""
    ok = all(saw.get(word) == value for word, value in expected.items())
    line = {"check": name, "ok": ok, **saw}
    if not ok:
        line["expected"] = expected
        _failed.append(name)
    print(json.dumps(line), flush=True)


def refused(name, error, status, message):
    """A refusal that an application sees: its status, and a message for the person who reads it."""
    ok = status == 401 and bool(message)
    print(json.dumps({"check": name, "ok": ok, "error": type(error).__name__, "status": status, "message": message}))
    if not ok:
        _failed.append(name)


def finish():
    sys.exit(f"not as promised: {', '.join(_failed)}" if _failed else 0)
