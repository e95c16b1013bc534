"""A replica that Serve starts and scales, with the pace of an engine and none in it: steps of continuous batching, slept through.
Registers at Control, beats, streams as vLLM does, tells its load, and takes its seconds to start."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any
from uuid import uuid4

from aiohttp import web

from raylm.serve.directory import Load
from raylm.serve.reach import Reach
from raylm.serve.scaling.replay.engine import LATELY_S, EngineModel
from tests.serve.scripted_replica import ScriptedReplica, _Answer, prompt_ids


class _Turn:
    """A request in the engine."""

    def __init__(self, prompt: int, answer: int) -> None:
        self.prompt, self.unread, self.answer, self.came = prompt, prompt, answer, time.monotonic()
        self.tokens: asyncio.Queue[None] = asyncio.Queue()


class PacedEngine:
    """Walks through the steps that `EngineModel` describes, in real time."""

    def __init__(self, model: EngineModel) -> None:
        self._model, self._work = model, asyncio.Event()
        self._waiting: deque[_Turn] = deque()
        self._reading: deque[_Turn] = deque()
        self._writing: list[_Turn] = []
        self._read = self._prompts = 0
        self._made: deque[tuple[float, int]] = deque()
        self._firsts: deque[tuple[float, float]] = deque()
        self._steps = asyncio.create_task(self._walk())

    def add(self, turn: _Turn) -> None:
        self._waiting.append(turn)
        self._work.set()

    def drop(self, turn: _Turn) -> None:
        """Its client has left."""
        for held in (self._waiting, self._reading, self._writing):
            if turn in held:
                held.remove(turn)

    def load(self) -> Load:
        now = time.monotonic()
        for kept in (self._made, self._firsts):
            while kept and kept[0][0] < now - LATELY_S:
                kept.popleft()
        firsts = sorted(seconds for _, seconds in self._firsts)
        queued = sum(turn.prompt for turn in (*self._waiting, *self._reading))
        taken = sum(turn.prompt + turn.answer for turn in (*self._reading, *self._writing))
        return Load(
            len(self._reading) + len(self._writing), len(self._waiting), queued, min(1.0, taken / self._model.kv_tokens),
            firsts[len(firsts) // 2] if firsts else None, sum(count for _, count in self._made) / LATELY_S, self._read,
            self._prompts,
        )  # fmt: skip

    async def _walk(self) -> None:
        due, model = time.monotonic(), self._model
        while True:
            while self._waiting and len(self._reading) + len(self._writing) < model.max_num_seqs:
                self._reading.append(self._waiting.popleft())
            if not self._reading and not self._writing:
                self._work.clear()
                await self._work.wait()
                due = time.monotonic()
                continue
            chunk = min(model.chunk_tokens, sum(turn.unread for turn in self._reading))
            due += model.step_s + model.seq_s * max(len(self._writing) - 1, 0) + chunk / model.prefill_tokens_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._step(chunk)

    def _step(self, chunk: int) -> None:
        now, ended = time.monotonic(), []
        for turn in self._writing:
            turn.tokens.put_nowait(None)
            turn.answer -= 1
            ended += [turn] if turn.answer < 1 else []
        made = len(self._writing)
        while chunk and self._reading:
            turn = self._reading[0]
            taken = min(chunk, turn.unread)
            turn.unread, chunk = turn.unread - taken, chunk - taken
            if not turn.unread:
                self._reading.popleft()
                self._read, self._prompts, made = self._read + turn.prompt, self._prompts + 1, made + 1
                self._firsts.append((now, now - turn.came))
                turn.tokens.put_nowait(None)
                turn.answer -= 1
                self._writing += [turn] if turn.answer > 0 else []
        self._made.append((now, made))
        for turn in ended:
            self._writing.remove(turn)


class _Told:
    """Control's methods as the scripted replica awaits them."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def __getattr__(self, method: str) -> Any:
        async def told(*args: Any) -> Any:
            return await getattr(self._reach, method).remote(*args)

        return told


class _Paced(ScriptedReplica):
    engine: PacedEngine

    @property
    def load(self) -> Load:
        return self.engine.load()

    async def _generate(self, request: web.BaseRequest, body: dict[str, Any], says: dict[str, str]) -> web.StreamResponse:
        prompt, most = prompt_ids(body["prompt"]), int(body["max_tokens"])
        self._made += 1
        answer = _Answer(f"cmpl-{self.name}-{self._made}", False, body, prompt)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", **says})
        await response.prepare(request)
        turn = _Turn(len(prompt), most)
        self.engine.add(turn)
        try:
            for at in range(most):
                await turn.tokens.get()
                token = answer.step()
                await response.write(answer.event([token], [token], at + 1 == most))
        finally:
            self.engine.drop(turn)
        await response.write(answer.last())
        return response


class Paced:
    """What Serve deploys."""

    async def __init__(self, application: str, model: dict[str, Any], name: str) -> None:
        engine = EngineModel.model_validate(model)
        await asyncio.sleep(engine.cold_start_s)
        self._server = _Paced(f"{name}-{uuid4().hex[:8]}", _Told(Reach(application)), model=name, beat_s=0.5, max_len=100_000)
        self._server.script.capacity = 100_000
        self._server._room = asyncio.Semaphore(100_000)
        self._server.engine = PacedEngine(engine)
        await self._server.start()

    async def awake(self) -> None:
        """For Serve's autoscaling."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._server.load._asdict().items() if value is not None}

    async def __del__(self) -> None:
        server = getattr(self, "_server", None)
        if server is None:
            return
        await server.control.drain(server.name)
        until = time.monotonic() + 20
        while server.running and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await server.stop()
