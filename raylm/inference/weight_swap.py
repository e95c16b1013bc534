"""Other weights for an engine that serves, in place: requests under way stand still for a moment, and go on with the new ones.

read beside --> hold answers, pause --> load, drop the cache --> resume --> probe --> answers go out
    |                                      |                                 |
    refused: nothing changed               in part: the old ones come back   differs: the old ones come back, and what was
                                           and all go on                     sampled meanwhile is dropped

No token of weights that were not proved leaves the process: what is sampled after the swap waits in `Hold` for the verdict.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from raylm.core.errors import ArtifactError, PlacementError, RaylmError, StageError
from raylm.inference.buckets import Bucket, WeightsDigest, pack
from raylm.inference.calls import InWords
from raylm.inference.intake import Intake
from raylm.inference.probe import apart
from raylm.inference.vllm_private import is_dead, tokens_under_way
from raylm.inference.weight_transfer import BUCKET_BYTES, Probe
from raylm.model.headers import read_headers

PROBE_S = 30.0
"""Seconds in which an engine must answer probes; it answers them before all other requests."""
ROLLING = "another network is no update in place: raylm update ENDPOINT MODEL --rolling"
BACK_NATS = 0.05
"""Most that weights which came back may say otherwise than before: the batch they are computed in is another one."""


class Weights(NamedTuple):
    """A checkpoint on this machine, and what its tokens are labelled with in an engine's weight versions: its fingerprint."""

    folder: str
    label: str


class Swapped(NamedTuple):
    """What a swap did."""

    label: str
    beside_s: float
    """Until the weights lay beside the engine, which went on meanwhile."""
    held_s: float
    """In which no answer went out: pause, loading, resuming, and the probes."""
    nats: float
    """Mean absolute difference of the probes' log-probabilities to the reference; 0 without probes."""
    said: tuple[Probe, ...]
    """What the engine says of the probes now."""
    under_way: dict[str, list[tuple[int, int]]]
    """Requests that stood still, by their id: places among their choices, and how many tokens are of the weights before."""


class WeightsLost(PlacementError):
    """An engine holds neither the new weights nor the old ones: its process must end."""


class Hold:
    """Keeps answers from going out while it is not known whether they are right."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        self.dropped = 0
        """Times that what was held was dropped."""

    def close(self) -> None:
        """From now on nothing passes."""
        self._opened.clear()

    def open(self) -> None:
        """What waited goes out."""
        self._opened.set()

    def drop(self) -> None:
        """What waited, and the rest of those answers, is wrong."""
        self.dropped += 1
        self._opened.set()

    async def passes(self, since: int) -> bool:
        """Wait while it is closed; whether an answer that began when `dropped` was `since` may go on."""
        await self._opened.wait()
        return self.dropped == since


class Swap:
    """Replaces the weights of an AsyncLLM whose workers are `WeightReceiver`s and that schedules by priority.

    Args:
        hold: what the engine answers passes through it.
        probe_s: seconds for the probes.
    """

    def __init__(self, engine: Any, hold: Hold, probe_s: float = PROBE_S) -> None:
        self._engine, self._hold, self._probe_s = engine, hold, probe_s
        self._mode: Literal["keep", "abort"] = "keep"

    async def run(self, now: Weights, to: Weights, probes: Sequence[Probe], most_nats: float) -> Swapped:
        """Let the engine go on with `to`.

        Args:
            now: what it holds; comes back where the new ones are not what they are said to be.
            probes: what the new weights say of a few sequences (by transformers, or by another replica). Without any, what was
                loaded is known by its digest alone.
            most_nats: largest mean absolute difference to them.

        Raises:
            ArtifactError: the weights are not whole, or not of this network; all goes on with the old ones.
            StageError: the engine does not say what the probes say; it has the old ones again, and `hold` has dropped the
                answers that were under way.
            WeightsLost: the old ones did not come back, or the engine has ended.
        """
        began, sequences = time.perf_counter(), [probe.tokens for probe in probes]
        refuse_other(Path(now.folder), Path(to.folder))
        before = await self.said(sequences)
        beside = await self._beside(to)
        beside_s, began = time.perf_counter() - began, time.perf_counter()
        try:
            try:
                await self._load(beside, to, "keep")
            except RaylmError as cause:
                # nothing was sampled with a part of them
                await self._back(now, "keep", before, cause)
                self._hold.open()
                raise ArtifactError(
                    f"the new weights cannot be loaded, the old ones are back: {cause.what}",
                    where=to.folder,
                    next=ROLLING,
                ) from cause
            under_way = tokens_under_way(self._engine)
            said, nats, why = await self._verdict(sequences, probes)
            if not nats <= most_nats:
                await self._back(now, "abort", before, None)
                self._hold.drop()
                raise StageError(
                    "the engine does not say what this checkpoint says, and has its old weights again: of "
                    f"{len(probes)} sequences {why}, {most_nats:g} are allowed",
                    where=to.folder,
                    next="what lies there is not what the reference was computed with, or vLLM reads it otherwise",
                )
        finally:
            await self._forget(beside.intake)
        self._hold.open()
        return Swapped(to.label, beside_s, time.perf_counter() - began, nats, tuple(said), under_way)

    async def said(self, sequences: Sequence[list[int]]) -> list[Probe]:
        """What the engine says of token sequences: the plain softmax, before whatever else waits for a place in the batch.

        Raises:
            StageError: it does not answer in time.
        """
        if not sequences:
            return []
        with InWords("probe", self._ended):
            async with asyncio.timeout(self._probe_s):
                return list(await asyncio.gather(*(_said(self._engine, tokens) for tokens in sequences)))

    async def _verdict(self, sequences: list[list[int]], probes: Sequence[Probe]) -> tuple[list[Probe], float, str]:
        """Resume, and compare. What was asked before it resumes is answered first."""
        asked = asyncio.ensure_future(self.said(sequences))
        await asyncio.sleep(0)
        try:
            await self._resume()
        except RaylmError as cause:
            # answers are held, and nothing would open them again
            asked.cancel()
            raise WeightsLost(f"the engine does not go on: {cause.what}") from cause
        try:
            said = await asked
        except StageError as late:
            return [], float("inf"), late.what
        nats = apart([one.logprobs for one in said], probes) if probes else 0.0
        return said, nats, f"log-probabilities differ by {nats:.3g} on average"

    async def _beside(self, weights: Weights) -> _Beside:
        """All weights in memory that the engine's workers can read; nothing of the engine changes."""
        found = _Beside(Intake(self._workers, self._stop), WeightsDigest(), uuid4().hex)
        await found.intake.begin(found.transfer, None)
        stream = pack(_tensors(Path(weights.folder)), BUCKET_BYTES, found.digest)
        try:
            while bucket := await asyncio.to_thread(next, stream, None):
                await found.intake.take(Bucket(bucket.data, bucket.table, aside=True), found.transfer)
        except (RaylmError, OSError) as cause:
            # a disk that went away is no end of an engine that answers
            await found.intake.close()
            raise ArtifactError(f"these weights cannot be read: {cause}", where=weights.folder, next="try it again") from cause
        return found

    async def _load(self, beside: _Beside, weights: Weights, mode: Literal["keep", "abort"]) -> None:
        """Pause, load, and drop what was cached of the weights before. Does not resume."""
        self._mode = mode
        with InWords("swap", self._ended):
            await beside.intake.finish(0, beside.digest.hexdigest(), beside.transfer, lambda _: None)
            # requests that stand still compute their prefix anew: what is cached belongs to the weights before
            if not await self._engine.reset_prefix_cache(reset_running_requests=True):
                raise StageError("vLLM kept its prefix cache, which belongs to the old weights", where=weights.folder)
            await self._engine.update_weight_version(weights.label)

    async def _back(
        self, weights: Weights, mode: Literal["keep", "abort"], before: list[Probe], cause: RaylmError | None
    ) -> None:
        """Bring back the old weights, and compare what they say with what they said."""
        try:
            beside = await self._beside(weights)
            try:
                await self._load(beside, weights, mode)
            finally:
                await self._forget(beside.intake)
            _, nats, why = await self._verdict([probe.tokens for probe in before], before)
        except (RaylmError, OSError) as lost:
            raise WeightsLost(f"the engine holds no whole weights: {lost}", where=weights.folder) from cause
        if not nats <= BACK_NATS:
            raise WeightsLost(f"the old weights do not say what they said: {why}", where=weights.folder) from cause

    async def _workers(self, method: str, *args: Any) -> list[Any]:
        return await self._engine.collective_rpc(method, args=args)

    async def _stop(self) -> None:
        self._hold.close()
        await self._engine.pause_generation(mode=self._mode, clear_cache=False)

    async def _resume(self) -> None:
        with InWords("resume", self._ended):
            await self._engine.resume_generation()

    async def _forget(self, intake: Intake) -> None:
        """Give back the memory in which weights lay."""
        await intake.close()
        if is_dead(self._engine):
            return
        try:
            with InWords("swap", self._ended):
                await self._workers("raylm_forget_weights")
        except RaylmError as cause:
            # the weights are right or back, and answers wait: an engine that keeps memory is no reason to hold them
            logging.getLogger("ray.serve").error("the memory of new weights is not given back: %s", cause)

    def _ended(self, cause: BaseException) -> bool:
        return is_dead(self._engine, cause)


def refuse_other(now: Path, to: Path) -> None:
    """Raises ArtifactError where the checkpoint in `to` lacks weights that the one in `now` has, or has them in other shapes."""
    have, comes = _shapes(now), _shapes(to)
    if missing := sorted(have.keys() - comes.keys()):
        words = f"{len(missing)} weights are missing that the engine has, first {missing[0]}"
        raise ArtifactError(words, where=str(to), next=ROLLING)
    if other := sorted(name for name in have if have[name] != comes[name]):
        words = f"{len(other)} weights have another shape, first {other[0]}: {comes[other[0]]}, not {have[other[0]]}"
        raise ArtifactError(words, where=str(to), next=ROLLING)


def _shapes(folder: Path) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in read_headers(folder).items()}


class _Beside(NamedTuple):
    """Weights that lie beside an engine."""

    intake: Intake
    digest: WeightsDigest
    transfer: str


async def _said(engine: Any, tokens: list[int]) -> Probe:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    asked = SamplingParams(
        max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )
    found: Any = None
    async for output in engine.generate({"prompt_token_ids": list(tokens)}, asked, f"raylm-probe-{uuid4().hex}", priority=-1):
        found = output
    said = [place[token].logprob for token, place in zip(tokens[1:], found.prompt_logprobs[1:], strict=True)]
    return Probe(list(tokens), said)


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names and tensors that transformers would read, one by one."""
    from itertools import groupby

    from safetensors import safe_open

    stored = sorted((tensor.file, name) for name, tensor in read_headers(folder).items())
    for file, of_file in groupby(stored, key=lambda one: one[0]):
        with safe_open(file, "pt") as opened:
            for _, name in of_file:
                yield name, opened.get_tensor(name)
