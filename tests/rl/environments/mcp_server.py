"""An MCP server made with the official package, over HTTP: its argument is the port."""

from __future__ import annotations

import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("shop")
held = {"count": 0}


@server.tool()
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@server.tool()
def visits() -> str:
    """How often this server was asked."""
    held["count"] += 1
    return str(held["count"])


@server.tool()
def token(ctx: Context) -> str:
    """The token of the request."""
    return str(ctx.headers.get("authorization") if ctx.headers else None)


if __name__ == "__main__":
    server.run("streamable-http", port=int(sys.argv[1]))
