"""Takes token prompts and weights, leaves completions with log-probabilities: one vLLM engine, held by one process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.config import Config, WorkerSpec
from raylm.core.errors import ArtifactError, DataError, PlacementError
from raylm.core.workers import Workers
from raylm.inference.calls import GeneratorLost, InWords, answer_of, ask
from raylm.inference.engine_dtype import EngineDtype, engine_dtype, network_of
from raylm.inference.engine_options import engine_options, set_environment
from raylm.model.checkpoint import end_tokens
from raylm.model.load import on_this_machine
from raylm.model.weights import as_arrays, as_tensor, weight_names, weights_digest

__all__ = [
    "Completion", "Generator", "GeneratorLost", "Sampling", "as_arrays", "ask", "hold_generator", "stream",
    "weights_digest",
]  # fmt: skip

START_S = 3600.0
"""Least seconds that an engine is given to start: to fetch weights, load and compile them. Its end is known at once."""
BEAT_S = 1.0
"""Seconds between signs that a draw goes on."""

# keys of config.json that say who wrote it and not what the network is
UNSHAPED = ("_name_or_path", "transformers_version", "use_cache")


class OtherNetwork(PlacementError):
    """The engine that is held has another shape than the weights it was asked to take."""


class Sampling(Config):
    """How completions are drawn."""

    max_tokens: int = 64
    """Most tokens of one completion."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens that has this probability; 1 draws from all."""
    n: int = 1
    """Completions per prompt."""
    seed: int = 0
    """Seed of the draw when no seeds are given per prompt."""
    stop_at_eos: bool = True
    """End at the checkpoint's end token, which is kept as the last token; false always draws max_tokens."""


class Completion(NamedTuple):
    """One drawn continuation.

    `logprobs[i]` is the log-probability of `tokens[i]` under the distribution it was drawn from: logits divided by the
    temperature, cut by top_p, normalised (vLLM's "processed" log-probabilities). That is what importance ratios need.
    At temperature 0 it is the one of the plain softmax. `finish_reason` is "stop" (end token) or "length".
    """

    tokens: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str


class Generator:
    """One vLLM engine inside this process. vLLM allows one per process, so another network needs another process.

    Args:
        gpu: whether the engine may use a GPU. Making a Generator imports vLLM, the slow part (10 s): make it ahead of time.
    """

    def __init__(self, gpu: bool = False) -> None:
        set_environment(gpu)
        from vllm import LLM

        self._gpu = gpu
        self._make: Any = LLM
        self._engine: Any = None
        self._tokenizer: Any = None
        self._shape: dict[str, Any] = {}
        self._names: set[str] = set()
        self._ends: list[int] = []
        self._max_len = 0
        self._version: int | None = None
        self._digest = ""
        self._dtype = EngineDtype("auto", "")

    def start(self, model_path: str, max_len: int, dtype: str = "auto", seed: int = 0, memory_share: float = 0.85) -> float:
        """Hold the checkpoint at `model_path`; leaves version 0. Returns the seconds it took.

        A first call builds the engine. A later call with a checkpoint of the same shape and the same other arguments
        loads its weights into the engine there is.

        Args:
            max_len: most tokens of prompt and completion together.
            dtype: what to compute in; auto keeps the checkpoint's format where this machine's kernels take it.
            memory_share: part of a GPU's memory that weights and cache take.

        Raises:
            PlacementError: the engine holds a network of another shape; a fresh process is needed.
            ConfigError: this machine's kernels do not take the checkpoint, or not in the format that was asked for.
        """
        began = time.monotonic()
        model_path = on_this_machine(model_path)
        network = _shaping(model_path)
        # vLLM's own "auto" would turn float32 into bfloat16
        self._dtype = engine_dtype(network, dtype, self._gpu, where=model_path)
        shape = {"network": network, "max_len": max_len, "dtype": self._dtype.name, "memory_share": memory_share}
        if self._engine is not None:
            self._refuse_other(shape, model_path)
        self._version = None
        with InWords("start"):
            if self._engine is None:
                self._engine = self._build(model_path, max_len, self._dtype.name, seed, memory_share)
            else:
                self._reload(weights_path=model_path)
        # an engine made for longer sequences takes shorter ones too
        self._max_len = max(self._max_len, max_len)
        self._shape, self._names = shape, weight_names(Path(model_path))
        self._read_tokenizer(model_path)
        self._version, self._digest = 0, ""
        return round(time.monotonic() - began, 2)

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seeds: list[int] | None = None
    ) -> Iterator[list[list[Completion]] | None]:
        """`sampling.n` completions for each prompt of token ids: the last thing that is yielded. What comes before, each
        second in which the engine took a step, is None: a sign that the draw goes on. `ask` leaves the completions alone.

        Args:
            seeds: one per prompt; each completion draws from its own stream, made of its prompt's seed and its place
                among the n, so that results do not depend on what else is in the batch. Default: seed + place of prompt.

        Raises:
            DataError: a prompt is empty, or leaves no room for a token.
            PlacementError: no weights are held, or the last `load` failed.
        """
        from vllm import SamplingParams

        self._need_weights()
        for index, prompt in enumerate(prompts):
            if not 0 < len(prompt) < self._max_len:
                raise DataError(
                    f"prompt {index} has {len(prompt)} tokens, 1 to {self._max_len - 1} are possible",
                    next="drop it, or raise max_len",
                )
        seeds = seeds if seeds is not None else [sampling.seed + index for index in range(len(prompts))]
        ends = self._ends if sampling.stop_at_eos else None
        params = [
            SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                logprobs=0,
                seed=stream(seed, place),
                stop_token_ids=ends,
                ignore_eos=not sampling.stop_at_eos,
                detokenize=False,
            )
            for seed in seeds
            for place in range(sampling.n)
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts for _ in range(sampling.n)]
        done: list[Completion] = []
        with InWords("generate"):
            for found in self._draw(asked, params):
                if found is None:
                    yield None
                else:
                    done = found
        yield [done[start : start + sampling.n] for start in range(0, len(done), sampling.n)]

    def _draw(self, asked: list[Any], params: list[Any]) -> Iterator[list[Completion] | None]:
        """vLLM's own loop over engine steps (LLM.generate), with a sign of life between them."""
        engine, beaten = self._engine.llm_engine, time.monotonic()
        ids = self._engine.enqueue(asked, params, use_tqdm=False)
        outputs: list[Any] = []
        try:
            while engine.has_unfinished_requests():
                outputs += [output for output in engine.step() if output.finished]
                if time.monotonic() - beaten > BEAT_S:
                    beaten = time.monotonic()
                    yield None
        finally:
            if len(outputs) < len(ids):
                engine.abort_request(ids, internal=True)  # a draw that failed must not go on inside the next one
        outputs.sort(key=lambda output: int(output.request_id))  # they are numbered as they were asked
        yield [self._completion(output.outputs[0]) for output in outputs]

    def load(self, weights: Iterable[tuple[str, Any]], version: int) -> str:
        """Replace all weights; what was cached of earlier ones is dropped. Returns the digest of what came in.

        Args:
            weights: (name, array) in Hugging Face's names; numpy or torch. A numpy uint16 array is taken for bfloat16,
                which numpy lacks (see `as_arrays`).
            version: number that `version()` reports from now on.

        Raises:
            ArtifactError: weights are missing; nothing was changed. After any other error the generator holds a mixture
                and refuses to generate.
        """
        named = list(weights)
        missing = sorted(self._names - {name for name, _ in named})
        if self._engine is None or missing:
            raise ArtifactError(
                f"version {version} lacks {len(missing)} weights, first {missing[:1]}",
                where="generator.load",
                next="call start() first, and send every weight of the checkpoint",
            )
        self._version = None
        digest = weights_digest(named)
        with InWords("load"):
            self._reload(weights_iterator=((name, as_tensor(array)) for name, array in named))
        self._version, self._digest = version, digest
        return digest

    def version(self) -> int | None:
        """Version of the weights held; None while there are none or after a load that failed."""
        return self._version

    def dtype(self) -> EngineDtype:
        """What the engine computes in, and why it is not the checkpoint's own format ("" where it is)."""
        return self._dtype

    def digest(self) -> str:
        """`weights_digest` of what the last `load` brought; empty when the weights came from disk."""
        return self._digest

    def _build(self, model_path: str, max_len: int, dtype: str, seed: int, memory_share: float) -> Any:
        options: dict[str, Any] = {"dtype": dtype, "max_model_len": max_len, "seed": seed, "skip_tokenizer_init": True}
        options |= {"logprobs_mode": "processed_logprobs", "disable_log_stats": True}
        # no default of a generation_config.json (top_k, repetition penalty) may bend what is drawn
        options |= {"generation_config": "vllm", **engine_options(self._gpu, memory_share)}
        return self._make(model=model_path, **options)

    def _reload(self, **source: Any) -> None:
        self._engine.collective_rpc("reload_weights", kwargs=source)
        self._engine.apply_model(_repack_head)
        if not self._engine.reset_prefix_cache():
            raise PlacementError("vLLM kept its prefix cache, which belongs to the old weights", where="generator")

    def _refuse_other(self, shape: dict[str, Any], model_path: str) -> None:
        differs = [key for key in shape if shape[key] != self._shape.get(key) and key != "max_len"]
        if shape["max_len"] > self._max_len:
            differs.append("max_len")
        if not differs and "quantization_config" not in shape["network"]:
            return
        why = f"differs in {', '.join(differs)}" if differs else "is quantized, and quantized weights cannot be replaced"
        raise OtherNetwork(
            f"this process holds an engine and {model_path} {why}; vLLM allows one engine per process",
            next="release the held generator and hold a fresh one",
        )

    def _need_weights(self) -> None:
        if self._version is None:
            raise PlacementError(
                "the generator holds no whole set of weights", next="call start(), or release it and start afresh"
            )

    def _read_tokenizer(self, model_path: str) -> None:
        from raylm.model.tokenizer import read_tokenizer

        self._tokenizer = read_tokenizer(model_path)
        self._ends = end_tokens(Path(model_path), self._tokenizer)

    def _completion(self, output: Any) -> Completion:
        tokens = list(output.token_ids)
        logprobs = [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Completion(tokens, logprobs, text, output.finish_reason)


def hold_generator(workers: Workers, gpus: float = 0, cpus: float = 1, name: str = "generator") -> Any:
    """Handle of a Generator actor that `workers` keeps from stage to stage; made now if none is held under `name`."""

    def make() -> Any:
        import ray

        place = workers.place("generator", WorkerSpec(cpus=cpus, gpus=gpus), "the generator")
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": place}
        return ray.remote(Generator).options(**options).remote(gpu=gpus > 0)

    def close(handle: Any) -> None:
        import ray

        ray.kill(handle)

    return workers.hold(name, make, close)


def start_generator(
    workers: Workers,
    path: str,
    max_len: int,
    gpus: float = 0,
    cpus: float = 1,
    dtype: str = "auto",
    seed: int = 0,
    hang_s: float = 600.0,
) -> Any:
    """Handle of a generator with the checkpoint at `path`: the held one where it can take these weights, else a fresh one."""
    for fresh in (False, True):
        actor = hold_generator(workers, gpus=gpus, cpus=cpus)
        try:
            answer_of(actor.version.remote(), "start", max(hang_s, START_S))
            ask(actor, "start", path, max_len=max_len, dtype=dtype, seed=seed, timeout_s=max(hang_s, START_S))
            return actor
        except (OtherNetwork, GeneratorLost):
            # one that was held from an earlier stage may have died since
            if fresh:
                raise
            workers.release("generator")
    raise AssertionError("unreachable")


def stream(seed: int, place: int) -> int:
    """Seed of completion `place` of a prompt: neighbouring seeds give unrelated streams. 0 <= result < 2**62."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest(), "big") >> 2


def _repack_head(network: Any) -> None:
    """The CPU backend keeps a packed copy of the output head's weight. vLLM's reload renews it only when the head's weight
    came by its own name; a head tied to the embedding would go on answering with the old weights, without a word."""
    for module in network.modules():
        if type(module).__name__ == "ParallelLMHead" and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


def _shaping(model_path: str) -> dict[str, Any]:
    """config.json less what does not shape the network; {} with its own name for what is no folder (a hub name)."""
    shaping = {key: value for key, value in network_of(model_path).items() if key not in UNSHAPED}
    return shaping or {"hub": model_path}
