"""Calls of clients that are not in the lock, run by the Python of their own environment: prints what they got as JSON.

python client_calls.py langchain|litellm URL KEY
"""

from __future__ import annotations

import json
import sys
from typing import Any

CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": False}


def langchain(url: str, key: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI, OpenAI  # pyright: ignore[reportMissingImports]

    asked: dict[str, Any] = {"model": "raylm", "base_url": url, "api_key": key, "temperature": 0, "max_retries": 0}
    chat = ChatOpenAI(**asked, max_tokens=8)
    turns = [("system", "be kind"), ("human", "hello")]
    whole = chat.invoke(turns)
    parts = [part.content for part in chat.stream(turns)]
    tool = {"title": "weather", "description": "Of a city.", **CITY}
    called = ChatOpenAI(**asked, max_tokens=60).bind_tools([tool], tool_choice="weather").invoke("hello")
    form = ChatOpenAI(**asked, max_tokens=60).with_structured_output(tool, method="json_schema").invoke("hello")
    responses = ChatOpenAI(**asked, max_tokens=8, use_responses_api=True).invoke(turns)
    return {
        "whole": whole.content,
        "usage": whole.usage_metadata["output_tokens"],
        "streamed": "".join(str(part) for part in parts),
        "call": called.tool_calls[0]["args"],
        "form": form,
        "responses": responses.text if isinstance(responses.text, str) else responses.text(),
        "completion": OpenAI(**asked, max_tokens=8).invoke("hello there"),
        "batch": len(chat.batch(["a", "b", "c"])),
    }


def litellm(url: str, key: str) -> dict[str, Any]:
    import litellm as client  # pyright: ignore[reportMissingImports]

    asked: dict[str, Any] = {"api_base": url, "api_key": key, "max_tokens": 8, "temperature": 0, "num_retries": 0}
    turns = [{"role": "user", "content": "hello"}]
    whole = client.completion(model="openai/raylm", messages=turns, **asked)
    parts = client.completion(model="openai/raylm", messages=turns, stream=True, **asked)
    refused = ""
    try:
        client.completion(model="openai/raylm", messages=turns, **{**asked, "max_tokens": 10_000})
    except client.BadRequestError as error:
        refused = str(error)
    through = client.completion(model="anthropic/raylm", messages=turns, **{**asked, "api_base": url.removesuffix("/v1")})
    return {
        "whole": whole.choices[0].message.content,
        "usage": whole.usage.completion_tokens,
        "streamed": "".join(part.choices[0].delta.content or "" for part in parts),
        "refused": refused,
        "anthropic": through.choices[0].message.content,
        "text": client.text_completion(model="text-completion-openai/raylm", prompt="hello there", **asked).choices[0].text,
    }


if __name__ == "__main__":
    calls = {"langchain": langchain, "litellm": litellm}
    print(json.dumps(calls[sys.argv[1]](*sys.argv[2:])))
