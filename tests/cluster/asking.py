"""A client of an endpoint on a host: asks the same question again and again, greedily, and says how each answer went.

python -m tests.cluster.asking http://HOST:8000 KEY [SECONDS]     a line of JSON for each request; without SECONDS one request
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request

QUESTION = "What kind of thing is `os.path.join`?"


def ask(url: str, key: str) -> dict[str, object]:
    """When it was asked and answered (time.time), by which weights, with which words; or what went wrong."""
    body = {"model": "raylm", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    began = time.time()
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            text = json.load(reply)["choices"][0]["message"]["content"]
            told = {"served": reply.headers["x-raylm-served"], "text": text}
    except (OSError, ValueError) as cause:
        told = {"error": str(cause)}
    return {"began": began, "ended": time.time(), **told}


def main(url: str, key: str, seconds: float = 0.0) -> None:
    until = time.monotonic() + seconds
    while True:
        print(json.dumps(ask(url, key)), flush=True)
        if time.monotonic() >= until:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
