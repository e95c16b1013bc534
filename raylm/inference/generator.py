"""One vLLM engine in an actor: takes token prompts and weights, leaves completions with log-probabilities.

`pool.py` spreads requests over several of these and replaces one that is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from raylm.core.errors import ArtifactError, DataError, PlacementError
from raylm.inference.buckets import Bucket
from raylm.inference.calls import GeneratorLost, InWords
from raylm.inference.completions import Completion, Sampling, VersionSpan
from raylm.inference.engine import build_engine, set_environment
from raylm.inference.engine_dtype import EngineDtype, engine_dtype, network_of
from raylm.inference.intake import Intake
from raylm.inference.weight_transfer import Held, Offer
from raylm.model.checkpoint import end_tokens
from raylm.model.load import on_this_machine
from raylm.model.weight_files import weight_names

DEADLINE_S = 600.0

# keys of config.json that say who wrote it and not what the network is
NO_NETWORK = ("_name_or_path", "transformers_version", "use_cache")


class OtherNetwork(PlacementError):
    """The engine that is held has another shape than the weights it was asked to take."""


class Generator:
    """An engine and the weights it holds. All methods may be called while others run (an asyncio actor).

    Args:
        gpu: whether the engine may use a GPU. Making a Generator imports vLLM, the slow part: make it ahead of time.
        backend: of vLLM's own weight transfer, which the engine is made with; "" for none.
    """

    def __init__(self, gpu: bool = False, backend: str = "") -> None:
        set_environment(gpu)
        import vllm.v1.engine.async_llm  # noqa: F401

        self._gpu, self._backend = gpu, backend
        self._engine: Any = None  # AsyncLLM
        self._tokenizer: Any = None
        self._network: dict[str, Any] = {}
        self._names: set[str] = set()
        self._ends: list[int] = []
        self._max_len, self._num_requests, self._num_taken = 0, 0, 0
        self._version: int | None = None
        self._whole, self._sleeps = asyncio.Event(), False
        self._intake = Intake(self._workers, self._stop)
        self._dtype = EngineDtype("auto", "")

    async def start(
        self,
        model_path: str,
        max_len: int,
        dtype: str = "auto",
        seed: int = 0,
        memory_share: float = 0.85,
        options: dict[str, Any] | None = None,
    ) -> EngineDtype:
        """Hold the checkpoint at `model_path` as version 0. Returns what the engine computes in, and why.

        A first call builds the engine. A later call with a checkpoint of the same shape and the same other arguments
        loads its weights into the engine there is.

        Args:
            max_len: most tokens of prompt and completion together.
            dtype: what to compute in; auto keeps the checkpoint's format where this machine's kernels take it.
            memory_share: part of a GPU's memory that weights and cache take.
            options: further arguments of vLLM's engine, see `GeneratorSpec.options`.

        Raises:
            OtherNetwork: the engine holds a network of another shape; a fresh process is needed.
            ConfigError: this machine's kernels do not take the checkpoint, or not in the format that was asked for.
        """
        model_path = on_this_machine(model_path)
        config = _network(model_path)
        # vLLM's own "auto" would turn float32 into bfloat16
        cache = (options or {}).get("kv_cache_dtype", "auto")
        self._dtype = engine_dtype(config, dtype, self._gpu, where=model_path, cache=cache)
        network = {"network": config, "dtype": self._dtype.name, "memory_share": memory_share, "options": options}
        if self._engine is not None:
            self._refuse_other(network, max_len, model_path)
        self._version = None
        self._whole.clear()
        await self._intake.forget()
        with InWords("start", self._lost):
            if self._engine is None:
                self._engine = await asyncio.to_thread(self._build, model_path, max_len, seed, memory_share, options or {})
                # an engine made for longer sequences takes shorter ones too
                self._max_len = max_len
            else:
                await self._wake_weights()
                await self._engine.collective_rpc("raylm_begin_weights")
                await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": model_path})
                await self._engine.collective_rpc("raylm_repack_head")
        self._network, self._names = network, weight_names(Path(model_path))
        self._read_tokenizer(model_path)
        await self._commit(0)
        return self._dtype

    async def generate(
        self, prompt: list[int], sampling: Sampling, seed: int | None = None, deadline_s: float = DEADLINE_S
    ) -> list[Completion]:
        """`sampling.n` completions of a prompt of token ids.

        Args:
            seed: each completion samples from its own stream, made of this and its place among the n, so that results do
                not depend on what else the engine does.
            deadline_s: most seconds in which neither this request nor another one of the engine gets a token.

        Raises:
            DataError: the prompt is empty, or leaves no room for a token.
            PlacementError: no weights are held, or the last transfer failed.
            GeneratorLost: the engine died, or stands still.
        """
        await self._wait_for_weights(deadline_s)
        if not 0 < len(prompt) < self._max_len:
            raise DataError(
                f"a prompt has {len(prompt)} tokens, 1 to {self._max_len - 1} are possible", next="drop it, or raise max_len"
            )
        params = sampling.params()
        answer = await self._answer(
            prompt,
            deadline_s,
            **params,
            # one request for all: half of what vLLM does for a short completion, it does for a request. Of the likeliest tokens
            # there is one completion
            n=sampling.n if sampling.temperature else 1,
            logprobs=0,
            # vLLM adds the place of each: their streams are as unrelated as those of hashed seeds
            seed=stream(sampling.seed if seed is None else seed, 0),
            stop_token_ids=self._ends if sampling.stop_at_eos else None,
            ignore_eos=not sampling.stop_at_eos,
        )
        outputs = answer.outputs if sampling.temperature else [answer.outputs[0]] * sampling.n
        return [self._completion(one, cut=bool(params.get("detokenize"))) for one in outputs]

    async def _wait_for_weights(self, deadline_s: float) -> None:
        """A request that comes while weights are loaded waits for them."""
        try:
            await asyncio.wait_for(self._whole.wait(), deadline_s if self._engine is not None else 0)
        except TimeoutError:
            raise PlacementError(
                "the generator holds no whole set of weights", next="call start(), or release it and start afresh"
            ) from None

    async def logprobs(self, tokens: list[int], deadline_s: float = DEADLINE_S) -> list[float]:
        """Log-probability of each of `tokens` given those before it, from the second one on: the plain softmax.

        Raises:
            DataError: there are not at least two, or no room for one more.
            PlacementError, GeneratorLost: as `generate`.
        """
        if self._version is None or not 1 < len(tokens) < self._max_len:
            raise DataError(f"log-probabilities of {len(tokens)} tokens, 2 to {self._max_len - 1} are possible")
        # before all that waits for a place in the batch: a transfer waits for the answer
        output = await self._answer(tokens, deadline_s, -1, max_tokens=1, temperature=0, prompt_logprobs=0)
        return [place[token].logprob for token, place in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)]

    async def begin_weights(self, transfer: str, names: list[str] | None = None, offer: Offer | None = None) -> Held:
        """Make ready for the weights of a later version. Requests go on until the first of them is loaded; from then on running
        ones stand still until `finish_weights`, and new ones are refused.

        Args:
            transfer: name of this transfer; what still comes of an earlier one that broke off is refused.
            names: of all weights that will come, where that is known.
            offer: how the sender sends; None for buckets through the object store.

        Raises:
            ArtifactError: weights will be missing; nothing was changed.
        """
        if names is not None:
            self._check_names(set(names))
        return await self._intake.begin(transfer, offer)

    async def take_weights(self, bucket: Bucket, transfer: str) -> None:
        """Load one bucket, or lay it aside. After an error in loading the generator refuses to generate until it has been started
        anew or got all weights.

        Raises:
            ArtifactError: the bucket belongs to another transfer than the one that was begun last; nothing was changed.
        """
        with InWords("take_weights", self._lost):
            await self._intake.take(bucket, transfer)
        self._num_taken += 1

    async def finish_weights(self, version: int, digest: str, transfer: str, last: Bucket | None = None) -> None:
        """All buckets came, `last` with this word: drop what was cached of earlier weights and go on with `version`.

        Raises:
            ArtifactError: weights are missing, or are not those that were sent, or the transfer is not the one begun last.
            StageError: a layer of the engine got no new weights.
        """
        with InWords("finish_weights", self._lost):
            await self._intake.finish(version, digest, transfer, self._check_names, last)
        await self._commit(version)

    async def num_workers(self) -> int:
        """Processes that compute this engine's tensors, one per GPU."""
        return len(await self._workers("check_health"))

    async def join_transfer(self, init_info: dict[str, Any]) -> None:
        """Join vLLM's own weight transfer, see `gpu_transfer`; one that was joined before is left."""
        with InWords("join_transfer", self._lost):
            await self._workers("shutdown_weight_transfer_engine")
            await self._workers("init_weight_transfer_engine", init_info)

    async def begin_transfer(self) -> None:
        """Stand still, and open all layers for what vLLM's transfer brings."""
        await self._intake.forget()
        with InWords("begin_transfer", self._lost):
            await self._stop()
            await self._workers("raylm_begin_transfer")

    async def take_transfer(self, update_info: bytes) -> None:
        """Receive what the trainer's side of vLLM's transfer says."""
        with InWords("take_transfer", self._lost):
            await self._workers("raylm_take_transfer", update_info)

    async def close_transfer(self) -> None:
        """All came. Raises StageError where a layer of the engine got no new weights."""
        with InWords("close_transfer", self._lost):
            await self._workers("raylm_close_transfer")

    async def commit_transfer(self, version: int) -> None:
        """Drop what was cached of earlier weights and go on with `version`."""
        await self._commit(version)

    async def sleep(self) -> None:
        """Give back what weights and cache take of a GPU's memory: both are gone, and come back with the next weights. Requests
        stand still until then, and go on. On a CPU no memory is given back."""
        self._version = None
        self._whole.clear()
        # of a kept copy only what changed would be loaded, beside weights that are gone
        await self._intake.forget()
        with InWords("sleep", self._lost):
            # weights of a higher version are all that comes: level 1 would keep a copy of these in the machine's memory
            await self._engine.sleep(level=2, mode="keep")
        self._sleeps = True

    async def version(self) -> int | None:
        """Version of the weights held; None while there are none or after a transfer that failed."""
        return self._version

    async def _workers(self, method: str, *args: Any) -> list[Any]:
        """What every worker of the engine answers."""
        return await self._engine.collective_rpc(method, args=args)

    async def _stop(self) -> None:
        """Let requests stand still: the weights are none from now on."""
        self._version = None
        self._whole.clear()
        await self._engine.pause_generation(mode="keep", clear_cache=False)
        await self._wake_weights()

    async def _wake_weights(self) -> None:
        """Memory for weights, where the engine sleeps. It does not generate before it has memory for its cache, too."""
        if self._sleeps:
            await self._engine.wake_up(tags=["weights"])

    async def _commit(self, version: int) -> None:
        with InWords("commit", self._lost):
            # requests that stood still compute their prefix anew: what is cached belongs to earlier weights
            if not await self._engine.reset_prefix_cache(reset_running_requests=True):
                raise PlacementError("vLLM kept its prefix cache, which belongs to the old weights", where="generator")
            await self._engine.update_weight_version(str(version))
            if self._sleeps:
                await self._engine.wake_up(tags=["kv_cache"])
                self._sleeps = False
            await self._engine.resume_generation()
        self._version = version
        self._num_taken += 1
        self._whole.set()

    async def _answer(self, prompt: list[int], deadline_s: float, priority: int = 0, **params: Any) -> Any:
        """What the engine answers to one request, whole."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        from raylm.inference.vllm_private import progress

        params = {"detokenize": False, **params}
        if structure := params.pop("structured_outputs", None):
            params["structured_outputs"] = StructuredOutputsParams(**structure)
        asked = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **params)
        self._num_requests += 1
        number = str(self._num_requests)

        async def drawn() -> Any:
            async for output in self._engine.generate({"prompt_token_ids": prompt}, asked, number, priority=priority):
                return output
            return None

        with InWords("generate", self._lost):
            # it is progress itself: what was before need not be known, and to look at all requests for each takes long
            task, seen = asyncio.create_task(drawn()), None
            try:
                while not (await asyncio.wait({task}, timeout=deadline_s))[0]:
                    # while weights are loaded no request gets a token
                    now = (progress(self._engine), self._num_taken)
                    if now == seen:
                        raise GeneratorLost(f"no token came for {deadline_s:g} s", where="generator.generate")
                    seen = now
            finally:
                task.cancel()
            return task.result()

    def _completion(self, output: Any, cut: bool) -> Completion:
        tokens = list(output.token_ids)
        logprobs = [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]
        # where vLLM looked for stop texts, its text ends before the one that it found
        text = output.text if cut else self._tokenizer.decode(tokens, skip_special_tokens=True)
        spans = tuple(VersionSpan(int(span.version), span.start, span.end) for span in output.weight_versions or ())
        return Completion(tokens, logprobs, text, output.finish_reason, spans)

    def _build(self, model_path: str, max_len: int, seed: int, memory_share: float, options: dict[str, Any]) -> Any:
        from raylm.inference.vllm_private import WEIGHT_RECEIVER

        arguments: dict[str, Any] = {
            "seed": seed,
            "skip_tokenizer_init": True,
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            "scheduling_policy": "priority",
            # no default of a generation_config.json (top_k, repetition penalty) may bend what is sampled
            "generation_config": "vllm",
            "worker_extension_cls": WEIGHT_RECEIVER,
            **({"weight_transfer_config": {"backend": self._backend}} if self._backend else {}),
            **options,
        }
        return build_engine(
            model_path,
            dtype=self._dtype.name,
            max_len=max_len,
            gpu=self._gpu,
            memory_share=memory_share,
            # beside a GPU, scheduling the next step while this process reads the last one is worth a process
            own_process=self._gpu,
            **arguments,
        )

    def _lost(self, cause: BaseException) -> bool:
        """Whether the engine behind an error has ended."""
        from raylm.inference.vllm_private import is_dead

        return self._engine is not None and is_dead(self._engine, cause)

    def _refuse_other(self, network: dict[str, Any], max_len: int, model_path: str) -> None:
        differs = [key for key in network if network[key] != self._network.get(key)]
        if max_len > self._max_len:
            differs.append("max_len")
        if not differs and "quantization_config" not in network["network"]:
            return
        why = f"differs in {', '.join(differs)}" if differs else "is quantized, and quantized weights cannot be replaced"
        raise OtherNetwork(
            f"this process holds an engine and {model_path} {why}; vLLM allows one engine per process",
            next="release the held generator and hold a fresh one",
        )

    def _check_names(self, names: set[str]) -> None:
        missing = sorted(self._names - names)
        if self._engine is None or missing:
            raise ArtifactError(
                f"{len(missing)} weights are missing, first {missing[:1]}",
                where="generator.weights",
                next="call start() first, and send every weight of the checkpoint",
            )

    def _read_tokenizer(self, model_path: str) -> None:
        from raylm.model.tokenizer import read_tokenizer

        self._tokenizer = read_tokenizer(model_path)
        self._ends = end_tokens(Path(model_path), self._tokenizer)


def stream(seed: int, place: int) -> int:
    """Seed of completion `place` of a prompt: neighbouring seeds give unrelated streams. 0 <= result < 2**62."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest(), "big") >> 2


def _network(model_path: str) -> dict[str, Any]:
    """config.json less what does not shape the network; {} with its own name for what is no folder (a hub name)."""
    shaping = {key: value for key, value in network_of(model_path).items() if key not in NO_NETWORK}
    return shaping or {"hub": model_path}
