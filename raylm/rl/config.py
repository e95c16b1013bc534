"""Config of the `rl` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylm.core.config import EngineUse, Makes, PromptsRef, Refers, Role, resolve
from raylm.inference.config import GeneratorSpec
from raylm.parallel.optimizers import AnyOptimizer
from raylm.parallel.optimizers.adamw import AdamW
from raylm.rl.algorithms import AnyAlgorithm
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.critic import Critic
from raylm.rl.environments import AnyEnvironment
from raylm.rl.pacing import AsyncRollouts
from raylm.rl.rewards import AnyReward
from raylm.rl.rewards.reward import engines_of, roles_of
from raylm.rl.truncation import Truncated
from raylm.trainer.config import TrainerConfig

CUT_DRAWS = (
    "refused, and the draw is by `temperature` alone: under top_p, top_k or min_p a token's probability is among the tokens that "
    "were left, which the trainer does not know, so that the ratio of new to old probability would be wrong"
)


class RL(TrainerConfig):
    """prompts + weights -> Checkpoint: draw completions, score them, learn from the scores."""

    placement = TrainerConfig.placement | {
        "generator",
        "reward_timeout_s",
        "rollout_timeout_s",
        "held_out_every",
        "keep_rollouts",
        "turn_timeout_s",
        "environment_processes",
        "reward_start_s",
        "reward_workers",
        "reward_memory_gb",
        "padding_free",
    }
    renamed = {"steps": "iterations", "prompts_per_step": "prompts_per_iteration", "sampler": "generator"}
    known_as = {
        "per_device_train_batch_size": "prompts_per_iteration, each answered algorithm.num_generations times, and micro_batch",
        "train_batch_size": "prompts_per_iteration",
        "rollout_batch_size": "prompts_per_iteration",
        "max_steps": "iterations",
        "max_completion_length": "max_tokens",
        "num_generations": "algorithm = {num_generations = ...}",
        "reward_funcs": "rewards",
        "top_p": CUT_DRAWS,
        "top_k": CUT_DRAWS,
        "min_p": CUT_DRAWS,
    }
    figures = ("held_out_reward", "reward", "held_out_finished_share", "held_out_completion_tokens", "tokens_per_s", "goodput")

    stage: Literal["rl"]
    prompts: PromptsRef
    """What is asked: an artifact of tokenize."""
    model: Annotated[str, Refers(("Checkpoint",), ("causal",))]
    """Weights to start from."""
    rewards: list[AnyReward] = []
    """What scores a completion; the scores are added. An algorithm that learns from a teacher needs none."""
    algorithm: AnyAlgorithm = Grpo()
    """How scores become advantages and a loss."""
    optimizer: AnyOptimizer = AdamW(lr=1e-5, weight_decay=0.0, schedule="constant", warmup=0.0)
    """Optimizer of the trainer."""
    environment: AnyEnvironment | None = None
    """What answers the model between its turns: tools, a game. Without one a completion is the whole answer."""
    max_turns: int = Field(default=8, gt=0)
    """Most turns of the model in a conversation with the environment."""
    max_turn_tokens: int | None = Field(default=None, gt=0)
    """Longest turn of the model; as much as max_tokens leaves where it is not said."""
    turn_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds in which the environment must answer one turn; one that does not is ended, and its conversation unscored."""
    environment_processes: int = Field(default=128, gt=0)
    """Conversations at the same time, each in a process of its own."""
    tool_parser: str = "auto"
    """How calls of tools are read: the name of vLLM's parser for the model's family; auto: as the chat template writes them."""
    iterations: int = Field(gt=0)
    """Number of iterations: draw, score, update, hand the new weights to the generator."""
    prompts_per_iteration: int = Field(default=16, gt=0)
    """Prompts per iteration; each is answered `algorithm.num_generations` times."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest completion; with an environment, all that comes after the prompt."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the experience of an iteration."""
    minibatches: int = Field(default=1, gt=0)
    """Optimizer steps of a pass, each on as many whole groups of completions (on completions, where there are fewer groups), in a
    seeded order."""
    critic: Critic | None = None
    """Where the algorithm learns from values: the model that says them."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Temperature of the draw; the trainer's log-probabilities use the same."""
    micro_batch: int = Field(default=16, gt=0)
    """Completions per forward pass and rank."""
    padding_free: bool | Literal["auto"] = "auto"
    """Lay the completions of a micro batch one behind the other in place of padding them, and compute a prompt once for all of
    them; numbers stay what they are. `auto` does so where that saves enough tokens, and model and layout allow it."""
    truncated: Truncated | None = None
    """What is done about answers that were cut at a limit; None: they are learned from as they are."""
    async_rollouts: AsyncRollouts | None = None
    """Let generation go on while the trainer learns; None: they take turns."""
    rollout_timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds from the asking of a prompt to the last token of its completions; those that are late are cut off, counted, and not
    learned from. None: as long as the generators move (`generator.hang_s`)."""
    held_out_prompts: int = Field(default=64, ge=0)
    """Held-out prompts answered greedily before and after; 0 asks none."""
    held_out_every: int | None = Field(default=None, gt=0)
    """Iterations between greedy answers to the held-out prompts; None: before the first and after the last one alone."""
    keep_rollouts: int | None = Field(default=None, ge=0)
    """Newest iterations whose rollouts are kept in the artifact's `rollouts/`; None keeps all, 0 none."""
    reward_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds for one call of a reward, after which its process is ended and the completion that it was about is unscored."""
    reward_start_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Seconds in which a reward worker must have imported and made its rewards."""
    reward_workers: int = Field(default=2, ge=1)
    """Processes that score, each one prompt's completions at a time; while a reward hangs in one, the others go on."""
    reward_memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Most memory of each of them, beyond which a reward gets a MemoryError; half of the machine's where it does not say."""
    save_every: int = Field(default=10, gt=0)
    """Iterations between step checkpoints."""
    max_skipped: int | None = Field(default=None, ge=0)
    """Iterations with a NaN or infinite gradient that are skipped before training stops; three in a row stop it in any case."""
    generator: GeneratorSpec = GeneratorSpec()
    """The vLLM engines that generate completions."""

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> RL:
        # another one's algorithm or environment says so once it is resolved
        given = self.rewards or getattr(self.environment, "rewarded", self.environment is not None)
        if not given and getattr(self.algorithm, "rewarded", True):
            raise ValueError("say `rewards`, what scores a completion")
        self.generator.sync.check(self)
        if self.generator.sleeps and self.max_staleness:
            raise ValueError("generators that sleep while the trainer works generate nothing beside it: drop async_rollouts")
        return self

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps that an iteration is planned to take."""
        return self.epochs * self.minibatches

    @property
    def engine_dtype(self) -> str:
        """What generators compute in: float32 where the trainer does, else bfloat16."""
        return "float32" if self.dtype == "float32" else "bfloat16"

    @model_validator(mode="after")
    def _decide_for_the_algorithm(self) -> RL:
        # what an algorithm leaves to the stage is written down once: its needs, and what a run records, are what happens
        decide = getattr(self.algorithm, "in_stage", None)
        if decide:
            object.__setattr__(self, "algorithm", decide(asynchronous=self.max_staleness > 0))
        return self

    @property
    def in_order(self) -> bool:
        """Whether each iteration asks the prompts at one position of their order, no more and no fewer."""
        return not self.max_staleness and not self.dynamic_sampling

    @property
    def dynamic_sampling(self) -> int:
        """Most batches of prompts that an iteration asks to replace groups without a signal; 0 where it replaces none."""
        batches = getattr(resolve(self.algorithm), "dynamic_sampling", 0)
        return batches if batches > 1 else 0

    @property
    def max_staleness(self) -> int:
        """Versions of the weights that what is learned from may lie behind; 0 where generators and trainer take turns."""
        return self.async_rollouts.max_staleness if self.async_rollouts else 0

    def planned(self, length: int) -> tuple[int, int, int] | None:
        """Tokens of the longest prompt and its completion, completions and number of iterations; None where the algorithm is
        somebody else's."""
        group = getattr(self.algorithm, "num_generations", None)
        return (length + self.max_tokens, self.prompts_per_iteration * group, self.iterations) if group else None

    def makes(self) -> Makes:
        return Makes("Checkpoint", "causal")

    def roles(self) -> dict[str, Role]:
        rewards = {"rewards": Role(count=self.reward_workers, cpus=0.0), **roles_of(self.rewards)}
        return {**super().roles(), "generator": self.generator.role(), **rewards}

    def engines(self) -> list[EngineUse]:
        return [self.generator.engine(self.model, self.engine_dtype), *engines_of(self.rewards)]
