"""An untrained DeepSeek-V3 of a given shape."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.model.shapes.shape import Experts


class DeepseekV3(Experts):
    """DeepSeek-V3 (https://arxiv.org/abs/2412.19437): latent attention, shared experts, a sigmoid router with a bias."""

    classes: ClassVar[tuple[str, str]] = ("DeepseekV3Config", "DeepseekV3ForCausalLM")

    kind: Literal["deepseek_v3"] = "deepseek_v3"
    num_shared_experts: int = Field(default=1, gt=0)
    """Experts that every token passes beside those it is sent to."""
    first_dense_layers: int = Field(default=1, ge=0)
    """Layers from the bottom that have one feed-forward layer of `intermediate_size` in place of experts."""
    num_groups: int = Field(default=1, gt=0)
    """Groups of experts; a token is sent to experts of `groups_per_token` of them."""
    groups_per_token: int = Field(default=1, gt=0)
    """Groups that a token may be sent to."""
    routed_scale: float = Field(default=1.0, gt=0)
    """Factor on what the routed experts say; DeepSeek-V3 has 2.5."""
    q_lora_rank: int | None = Field(default=None, gt=0)
    """Width that queries are squeezed to; not squeezed when absent."""
    kv_lora_rank: int | None = Field(default=None, gt=0)
    """Width that keys and values are squeezed to; four heads' when absent."""
    qk_nope_head_dim: int | None = Field(default=None, gt=0)
    """Width of a head's query and key without position; hidden_size / num_heads when absent."""
    qk_rope_head_dim: int | None = Field(default=None, gt=0)
    """Width of the rotary part beside it, shared by all keys; half of hidden_size / num_heads when absent."""
    v_head_dim: int | None = Field(default=None, gt=0)
    """Width of a head's value; hidden_size / num_heads when absent."""

    @model_validator(mode="after")
    def _groups_hold_two(self) -> DeepseekV3:
        if self.num_kv_heads not in (None, self.num_heads):
            raise ValueError("num_kv_heads has no meaning beside latent attention: drop it")
        # a group is chosen by the sum of its two best experts
        if self.num_experts % self.num_groups or self.num_experts < 2 * self.num_groups:
            raise ValueError(f"num_experts {self.num_experts} does not fill num_groups {self.num_groups} with two or more each")
        if not self.experts_per_token <= self.groups_per_token * self.num_experts // self.num_groups:
            raise ValueError(f"groups_per_token {self.groups_per_token} hold fewer than {self.experts_per_token} experts")
        if self.groups_per_token > self.num_groups:
            raise ValueError(f"groups_per_token {self.groups_per_token} is more than num_groups {self.num_groups}")
        return self

    def fields(self) -> dict[str, Any]:
        head = self.hidden_size // self.num_heads
        # transformers derives the width of a head from its parts
        return {name: value for name, value in super().fields().items() if name != "head_dim"} | {
            "n_routed_experts": self.num_experts,
            "n_shared_experts": self.num_shared_experts,
            "first_k_dense_replace": self.first_dense_layers,
            "n_group": self.num_groups,
            "topk_group": self.groups_per_token,
            "routed_scaling_factor": self.routed_scale,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank or 4 * head,
            "qk_nope_head_dim": self.qk_nope_head_dim or head,
            "qk_rope_head_dim": self.qk_rope_head_dim or max(2, head // 4 * 2),
            "v_head_dim": self.v_head_dim or head,
        }
