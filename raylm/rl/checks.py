"""Checks of an rl stage before it starts: what in its prompts, model and settings cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import Artifact
from raylm.core.config import CustomCard, card_kind, resolve
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.data.answers import opens_thought
from raylm.model.chat_template import other_template
from raylm.model.limits import ends, experts, positions, vocabulary
from raylm.model.preflight import check_tokens
from raylm.rl.config import RL
from raylm.rl.critic import check_critic, check_shared
from raylm.rl.environments.checks import check_environment, check_template
from raylm.rl.rewards.check import check_arguments, check_reward
from raylm.rl.types import Prompt

ALGORITHM = {"advantages": ("experience",), "loss": ("inputs",)}
NEEDS = {"reward": ("ground_truth",), "algorithm": ("reference", "teacher", "critic", "trainer_logprobs", "entropy")}
"""What a reward and an algorithm may need, and is provided."""
TOKENIZER = "tokenizer/tokenizer.json"
FITS = "tokenize with the tokenizer that belongs to the model"


class Known(NamedTuple):
    """What is known of an artifact of prompts."""

    facts: dict[str, Any]
    """vocab_size, eos_token_id and length of its manifest, or what the tokenize stage says of them."""
    count: int | None = None
    longest: int | None = None
    largest: int | None = None
    """The largest token id in it."""
    folder: Folder | None = None
    num_ground_truths: int | None = None
    """Training prompts that say the right answer."""


def known_of(prompts: Artifact) -> Known:
    """What is known of finished prompts. Those of a bucket are not fetched for it."""
    shards = [entry for split in ("train-", "held_out-") for entry in prompts.shards(split) if entry.path.endswith(".arrow")]
    known = Known(
        prompts.facts, sum(entry.rows or 0 for entry in shards if entry.path.startswith("train-")), folder=prompts.folder
    )
    if not prompts.folder.is_local:
        return known
    try:
        import pyarrow.compute
    except ImportError:
        return known  # a laptop that only plans
    from raylm.data.shards import map_arrow

    pc: Any = pyarrow.compute
    columns = [map_arrow(prompts.folder.local(entry.path))["tokens"] for entry in shards]
    longest = max((pc.max(pc.list_value_length(column)).as_py() or 0 for column in columns), default=None)
    largest = max((pc.max(pc.list_flatten(column)).as_py() or 0 for column in columns), default=None)
    train = [map_arrow(prompts.folder.local(entry.path)) for entry in shards if entry.path.startswith("train-")]
    truths = [table["ground_truth"] for table in train if "ground_truth" in table.column_names]
    told = sum(len(column) - column.null_count for column in truths)
    return known._replace(longest=longest, largest=largest, num_ground_truths=told)


def check_cards(cfg: RL) -> None:
    """Raises ConfigError when somebody else's reward or algorithm cannot be made, or is not called as raylm calls it."""
    for place, card in enumerate(cfg.rewards):
        check_reward(card, f"rewards.{place}")
    _check_methods(cfg.algorithm, "algorithm", ALGORITHM)
    for kind, cards in (("reward", cfg.rewards), ("algorithm", [cfg.algorithm])):
        for card in cards:
            if lacking := [need for need in getattr(resolve(card), "needs", ()) if need not in NEEDS[kind]]:
                raise ConfigError(
                    f"{kind} {card_kind(resolve(card))} needs {lacking[0]}, which this version has not",
                    where=kind,
                    next="take another",
                )
    if cfg.environment is not None:
        check_environment(cfg.environment)
        if not (cfg.rewards or resolve(cfg.environment).rewarded) and getattr(resolve(cfg.algorithm), "rewarded", True):
            raise ConfigError(
                "this environment gives no rewards", where="rewards", next="say `rewards`, what scores a completion"
            )
    if "critic" in getattr(resolve(cfg.algorithm), "needs", ()):
        _check_methods(cfg.algorithm, "algorithm", {"critic_loss": ("inputs",)})
    check_critic(cfg.critic, cfg.algorithm, cfg.iterations)
    check_shared(cfg)
    if cfg.spikes is not None and not cfg.in_order:
        # which prompts an iteration learns from is not known beforehand: there is no batch of the order to pass over
        raise ConfigError(
            "`spikes` passes over whole batches of the order of prompts, which dynamic sampling and async_rollouts do not keep",
            where="spikes",
            next="drop it, or algorithm.dynamic_sampling and async_rollouts; max_skipped bounds steps that are not finite",
        )
    if isinstance(cfg.algorithm, CustomCard) and not _is_count(getattr(resolve(cfg.algorithm), "num_generations", None)):
        raise ConfigError(
            f"the custom card {cfg.algorithm.path!r} needs `num_generations`, the number of completions per prompt",
            where="algorithm",
        )


def check_thoughts(cfg: RL, prompts: Sequence[Prompt], folder: Folder) -> None:
    """Rewards that look for an answer must know where a thought begins: one that is cut off is no answer, whatever it mentions.

    Args:
        folder: of the artifact of prompts, with its tokenizer.

    Raises:
        ConfigError: a reward takes prompts to open a thought that do not, or the other way round.
    """
    asking = [(at, card) for at, card in enumerate(cfg.rewards) if getattr(resolve(card), "skips_thoughts", False)]
    if not asking or not folder.exists(TOKENIZER):
        return
    from tokenizers import Tokenizer

    opens = opens_thought(
        Tokenizer.from_file(str(folder.local(TOKENIZER))).decode(prompts[0].tokens[-16:], skip_special_tokens=False)
    )
    for at, card in asking:
        if resolve(card).opened != opens:
            says = "open a thought (<think>)" if opens else "open no thought"
            raise ConfigError(
                f"the prompts {says}, and this reward takes them for others: it would misread answers that are cut off",
                where=f"rewards.{at}.opened",
                next=f"opened = {str(opens).lower()}",
            )


def few_prompts(cfg: RL, count: int) -> str:
    """What becomes of a set of prompts that is smaller than an iteration."""
    return (
        f"an iteration asks {cfg.prompts_per_iteration:,} prompts, {cfg.prompts!r} has {count:,} to learn from: each asks all of "
        "them, with fresh draws (more draws of each: algorithm.num_generations)"
    )


def check_prompts(cfg: RL, known: Known, model: str, config: dict[str, Any], made: bool) -> list[str]:
    """What may go wrong with these prompts and this model, in lines.

    Args:
        model, config: where the model lies, and its config.json.
        made: the model's files are there, so that its tokenizer can be compared.

    Raises:
        ConfigError: what must go wrong.
    """
    if known.num_ground_truths == 0:
        for card in map(resolve, cfg.rewards):
            if "ground_truth" in getattr(card, "needs", ()):
                raise ConfigError(
                    f"the reward `{card_kind(card)}` needs a ground truth, no prompt of {cfg.prompts!r} has one",
                    next="give the rows an `answer` column",
                )
    _check_overlong(cfg)
    lines = [*_check_positions(cfg, known, positions(config)), *_check_routing(cfg, config)]
    if known.count is not None and known.count < cfg.prompts_per_iteration:
        lines.append(few_prompts(cfg, known.count))
    size, has = vocabulary(config), known.facts.get("vocab_size")
    if size is not None and has is not None and has > size:
        raise ConfigError(f"the tokenizer of {cfg.prompts!r} has {has} tokens, the model's embedding {size}", next=FITS)
    if size is not None and known.largest is not None and known.largest >= size:
        raise ConfigError(f"a prompt of {cfg.prompts!r} has token {known.largest}, the model's embedding {size} rows", next=FITS)
    end, known_ends = known.facts.get("eos_token_id"), ends(model, config) if made else []
    if end is not None and known_ends and end not in known_ends:
        raise ConfigError(f"{cfg.prompts!r} ends texts with token {end}, the model with {known_ends}", next=FITS)
    if made and cfg.environment is not None and Folder(model).is_local:
        check_template(cfg.environment, model, cfg.tool_parser)
    if made and known.folder is not None and known.folder.is_local and Folder(model).is_local:
        check_tokens(Path(known.folder.path("tokenizer")), Path(model), cfg.prompts)
    if made and (other := other_template(known.facts, model)):
        raise ConfigError(f"{other}, by which the trained model is served", where=cfg.prompts, next=FITS)
    return lines


def _check_positions(cfg: RL, known: Known, most: int | None) -> list[str]:
    if most is None:
        return []
    longest = known.longest or 1
    if longest + cfg.max_tokens > most:
        raise ConfigError(
            f"{longest} + {cfg.max_tokens} tokens (longest prompt, max_tokens), the model has {most} positions",
            next=f"max_tokens = {most - longest} at most, or drop long prompts (form.length of their stage)",
        )
    bound = known.facts.get("length")
    if known.longest is None and bound is not None and bound + cfg.max_tokens > most:
        return [
            f"prompts may have up to {bound} tokens, with max_tokens = {cfg.max_tokens} more than the model's {most} positions"
        ]
    return []


def _check_overlong(cfg: RL) -> None:
    """Raises ConfigError where no completion can be so long that it is punished for it."""
    overlong = getattr(cfg.algorithm, "overlong", None)
    if overlong is not None and overlong.expected_tokens >= cfg.max_tokens:
        raise ConfigError(
            f"completions of up to {overlong.expected_tokens} tokens are not punished, and none is longer than {cfg.max_tokens}",
            where="algorithm.overlong",
            next="expected_tokens + buffer_tokens = max_tokens",
        )


def _check_routing(cfg: RL, config: dict[str, Any]) -> list[str]:
    """The generator's choice of experts is not replayed in the trainer (R3, https://arxiv.org/abs/2510.11370): near a tie the two
    choose others, and a token's ratio is far from 1 at equal weights."""
    if experts(config) < 2:
        return []
    return [
        f"{cfg.model} has {experts(config)} experts a layer, and the generator's routing is not replayed in the trainer (R3): "
        "watch mismatch_kl and mismatch_max; algorithm gspo, or a correction with mode = 'token_mask', bears it best"
    ]


def _check_methods(card: Any, where: str, wanted: dict[str, tuple[str, ...]]) -> None:
    if not isinstance(card, CustomCard):
        return
    made = resolve(card)
    for name, arguments in wanted.items():
        method, called = getattr(made, name, None), f"{name}({', '.join(arguments)})"
        if not callable(method):
            raise ConfigError(f"the custom card {card.path!r} has no method {called}", where=where)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise ConfigError(
                f"the custom card {card.path!r} has an async {name}; raylm calls {called} and takes what it returns",
                where=where,
                next="make it a plain function that calls asyncio.run(...)",
            )
        check_arguments(method, called, f"the custom card {card.path!r}", where)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
