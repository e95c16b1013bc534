"""An MCP server over standard input and output without any library: it starts at once."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TEXT = {"type": "string"}
TOOLS = {
    "add": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "visits": {},
    "fail": {"why": TEXT},
    "hang": {"note": TEXT},
}
held = {"count": 0}


def call(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if name == "hang":
        Path(given["note"]).write_text(str(os.getpid()))
        time.sleep(600)
    held["count"] += name == "visits"
    said = {
        "add": lambda: str(given["a"] + given["b"]),
        "visits": lambda: f"{held['count']} {os.environ.get('SHOP_KEY')}",
        "fail": lambda: given["why"],
    }[name]()
    return {"content": [{"type": "text", "text": said}], "isError": name == "fail"}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "initialize":
        version = params["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "program", "version": "1"}}
    if method == "tools/list":
        # two pages
        names = list(TOOLS)[2:] if params.get("cursor") else list(TOOLS)[:2]
        tools = [{"name": name, "inputSchema": {"type": "object", "properties": TOOLS[name]}} for name in names]
        return {"tools": tools, **({} if params.get("cursor") else {"nextCursor": "more"})}
    return call(params["name"], params["arguments"]) if method == "tools/call" else None


for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    found = answer(asked["method"], asked.get("params") or {})
    told = {"result": found} if found is not None else {"error": {"code": -32601, "message": f"no method {asked['method']}"}}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}), flush=True)
