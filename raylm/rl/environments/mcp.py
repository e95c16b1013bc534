"""The `mcp` environment: the tools of a server of the Model Context Protocol (https://modelcontextprotocol.io)."""

from __future__ import annotations

import os
import tempfile
from contextlib import AsyncExitStack
from typing import Any, Literal

from pydantic import PrivateAttr, model_validator

from raylm.core.config import digest_of
from raylm.core.errors import ConfigError, StageError
from raylm.rl.environments.environment import Call, Message
from raylm.rl.environments.tool_environment import ToolEnvironment, ToolError
from raylm.rl.rewards.measure import in_words

_HELD: dict[str, tuple[AsyncExitStack, Any]] = {}
"""Sessions of this process that its conversations share, by their card."""


class Mcp(ToolEnvironment):
    """The tools of an MCP server: a command that talks over its standard input and output, or a URL (streamable HTTP)."""

    kind: Literal["mcp"] = "mcp"
    command: list[str] = []
    """Program and arguments; each conversation starts a server of its own, which ends with it."""
    env: list[str] = []
    """Names of environment variables that the command gets, beside PATH, HOME and the like."""
    url: str | None = None
    """Endpoint of a server that runs already."""
    token_env: str | None = None
    """Name of the environment variable with the bearer token for `url`."""
    only: list[str] = []
    """Tools that are offered; all that the server has where none is named."""
    shared: bool = False
    """One server (one session of `url`) serves conversations one after the other: faster, and right only for servers that keep
    nothing of one conversation."""

    _session: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_server(self) -> Mcp:
        if bool(self.command) == bool(self.url):
            raise ValueError("say `command` or `url`, where the server is")
        if self.token_env and not self.url:
            raise ValueError("`token_env` is for a `url`; a command gets variables by `env`")
        return self

    def preload(self) -> None:
        """Import the client once for all conversations. Raises ConfigError without it, or without a variable."""
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ConfigError("MCP servers need the package `mcp`", where="environment", next="pip install 'mcp>=2,<3'") from None
        absent = [name for name in (*self.env, *([self.token_env] if self.token_env else [])) if name not in os.environ]
        if absent:
            raise ConfigError(
                f"the environment variable {absent[0]} is not set", where="environment", next=f"export {absent[0]}=..."
            )

    async def tools(self) -> list[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            return await self._list(await self._connect(stack))

    async def reset(self, prompt: Any) -> list[Message]:
        key = digest_of(self.identity())
        if self.shared and key in _HELD:
            self._session = _HELD[key]
            return []
        stack = AsyncExitStack()
        self._session = (stack, await self._connect(stack))
        if self.shared:
            _HELD[key] = self._session
        return []

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp.shared.exceptions import MCPError

        key = digest_of(self.identity())
        held = _HELD.pop(key, None)  # a session that breaks is not shared any more
        try:
            found = await self._session[1].call_tool(name, arguments)
        except MCPError as cause:
            raise ToolError(str(cause)) from None
        if held is not None:
            _HELD[key] = held
        text = "\n".join(block.text if block.type == "text" else f"({block.type})" for block in found.content)
        if found.is_error:
            raise ToolError(text)
        return text

    async def close(self) -> None:
        if self._session is not None and not self.shared:
            await self._session[0].aclose()

    def _check(self, call: Call) -> None:
        """Only the name: what arguments it takes the server knows best."""
        known = [tool["function"]["name"] for tool in self._offered or ()]
        if call.name not in known:
            raise ToolError(f"there is no tool {call.name[:60]!r}; there are: {', '.join(known)}")

    async def _connect(self, stack: AsyncExitStack) -> Any:
        from mcp import Client, StdioServerParameters, stdio_client
        from mcp.shared.exceptions import MCPError

        if self.command:
            given = {name: os.environ[name] for name in self.env}
            # what hundreds of servers log is no reading for a terminal; of one that does not start, its last line is
            log = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
            asked = StdioServerParameters(command=self.command[0], args=self.command[1:], env=given)
            try:
                return await stack.enter_async_context(Client(stdio_client(asked, errlog=log)))
            except (MCPError, OSError, ExceptionGroup) as cause:
                log.seek(0)
                said = (log.read().strip().splitlines() or [in_words(cause)])[-1][:300]
                raise StageError(f"the MCP server {self.command[0]!r} did not start: {said}", where="environment") from None
        if self.token_env:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            header = {"Authorization": f"Bearer {os.environ[self.token_env]}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=header, timeout=httpx2.Timeout(30.0, read=300.0)))
            return await stack.enter_async_context(Client(streamable_http_client(str(self.url), http_client=http)))
        return await stack.enter_async_context(Client(str(self.url)))

    async def _list(self, client: Any) -> list[dict[str, Any]]:
        listed, cursor = [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            listed += page.tools
            if (cursor := page.next_cursor) is None:
                break
        names = [tool.name for tool in listed]
        if absent := [name for name in self.only if name not in names]:
            raise ConfigError(f"the MCP server has no tool {absent[0]!r}; it has: {', '.join(names)}", where="environment.only")
        return [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema},
            }
            for tool in listed
            if not self.only or tool.name in self.only
        ]
