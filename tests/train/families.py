"""Families of transformers, trained tiny, one a line: what each is given beside `SIZES`, and what is refused of it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One family. Words are those with which a ConfigError refuses; what has none must equal transformers and peft."""

    sizes: dict[str, Any] = {}
    """Fields of its config beside `SIZES`."""
    objective: str = "causal"
    modules: str | list[str] = "all-linear"
    """What gets an adapter."""
    refused: str = ""
    """Why it does not train."""
    lora: str = ""
    """Why it gets no adapter."""
    apart: str = ""
    """Why `document_mask` is refused."""
    ordinary: bool = False
    """Whether it is among those of every run of the tests."""


MOE = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "head_dim": 8,
}  # fmt: skip
MLA = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
SSM = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
PAIR = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "num_decoder_layers": 1, "decoder_start_token_id": 0,
    "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 4,
}  # fmt: skip
GEMMA3N = {
    "intermediate_size": [48, 48], "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0, 0.0], "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96,
    "num_kv_shared_layers": 0, "altup_num_inputs": 2,
}  # fmt: skip
QV = ["q_proj", "v_proj"]

OWN = "its attention cannot be exchanged"
INDEXER = "an indexer picks what its tokens see"
SINKS = "it has attention sinks"
ENCODER = "this is an encoder or a classifier"
MASKED, PAIRED = "masked", "seq2seq"

FAMILIES: dict[str, Row] = {
    # dense decoders
    "llama": Row(ordinary=True),
    "mistral": Row(ordinary=True),
    "ministral": Row({"head_dim": 8}),
    "qwen2": Row({"use_sliding_window": True, "max_window_layers": 1}, ordinary=True),
    "qwen3": Row({"head_dim": 8}, ordinary=True),
    "smollm3": Row(),
    "olmo": Row(),
    "olmo2": Row(),
    "olmo3": Row(),
    "phi": Row(),
    "phi3": Row(),
    "gemma": Row({"head_dim": 8}),
    "gemma2": Row({"head_dim": 8}, apart="it caps attention scores", ordinary=True),
    "gemma3_text": Row({"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}, ordinary=True),
    "gemma3n_text": Row(GEMMA3N, modules=QV, ordinary=True),
    "vaultgemma": Row({"head_dim": 8}, apart="it caps attention scores"),
    "cohere": Row({"logit_scale": 0.25}),
    "cohere2": Row({"logit_scale": 0.25}),
    "granite": Row({"logits_scaling": 8.0}, ordinary=True),
    "glm4": Row({"head_dim": 8}),
    "exaone4": Row(),
    "ernie4_5": Row(),
    "helium": Row({"head_dim": 8}),
    "nanochat": Row(),
    "seed_oss": Row({"head_dim": 8}),
    "starcoder2": Row(),
    "stablelm": Row(apart=OWN),
    "persimmon": Row(),
    "gpt_neox": Row(),
    "gpt_bigcode": Row(),
    "gpt2": Row(ordinary=True),
    "opt": Row(),
    "bloom": Row(apart=OWN),
    "mpt": Row(apart=OWN),
    "diffllama": Row(),
    "modernbert-decoder": Row(),
    "nemotron": Row(apart="a token sees other documents", ordinary=True),
    "minicpm3": Row(MLA, refused="changes its logits after the output layer"),
    # experts
    "mixtral": Row(MOE),
    "qwen2_moe": Row(MOE, ordinary=True),
    "qwen3_moe": Row(MOE),
    "olmoe": Row({**MOE, "sliding_window": None}),
    "granitemoe": Row(MOE),
    "phimoe": Row(MOE, modules=QV, apart="its sliding window is a mask"),
    "ernie4_5_moe": Row(MOE),
    "gpt_oss": Row(MOE, apart=SINKS, ordinary=True),
    "llama4_text": Row(MOE, modules=QV, apart="it has chunked_attention"),
    "deepseek_v3": Row({**MOE, **MLA}),
    "deepseek_v32": Row({**MOE, **MLA}, apart=INDEXER, ordinary=True),
    "glm_moe_dsa": Row({**MOE, **MLA}, apart=INDEXER),
    # state spaces, linear attention, convolutions
    "mamba": Row(lora="peft makes no adapters of this model", apart=OWN, ordinary=True),
    "falcon_mamba": Row(lora="peft makes no adapters of this model", apart=OWN),
    "rwkv": Row({"attention_hidden_size": 32}, refused="changes its own weights in a forward pass"),
    "jamba": Row(
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2},
        modules=QV, apart=OWN,
    ),
    "qwen3_next": Row({**MOE, **LINEAR}, apart=OWN),
    "lfm2": Row({"layer_types": ["conv", "full_attention"]}, apart="it has conv", ordinary=True),
    "recurrent_gemma": Row({"lru_width": 32, "num_hidden_layers": 3}, refused="changes its logits after the output layer"),
    # encoders
    "bert": Row({"architectures": ["BertForMaskedLM"]}, MASKED, ordinary=True),
    "roberta": Row({"architectures": ["RobertaForMaskedLM"]}, MASKED),
    "modernbert": Row({"architectures": ["ModernBertForMaskedLM"]}, MASKED),
    "deberta-v2": Row({"architectures": ["DebertaV2ForMaskedLM"]}, MASKED),
    "distilbert": Row(
        {"architectures": ["DistilBertForMaskedLM"], "dim": 32, "n_heads": 2, "n_layers": 1, "hidden_dim": 48}, MASKED
    ),
    "electra": Row({"architectures": ["ElectraForMaskedLM"], "embedding_size": 16}, MASKED),
    "fnet": Row({"architectures": ["FNetForMaskedLM"]}, MASKED, refused="sees the padding of a row", ordinary=True),
    "esm": Row({"architectures": ["EsmForMaskedLM"]}, MASKED, refused="changes what its output layer returns"),
    "megatron-bert": Row(refused=ENCODER, ordinary=True),
    "xlm-roberta": Row(refused=ENCODER),
    # encoders with decoders
    "t5": Row(T5, PAIRED, ordinary=True),
    "mt5": Row(T5, PAIRED),
    "switch_transformers": Row(T5, PAIRED),
    "bart": Row(PAIR, PAIRED, ordinary=True),
    "mbart": Row(PAIR, PAIRED),
    "marian": Row({**PAIR, "decoder_vocab_size": 96}, PAIRED),
    "pegasus": Row(PAIR, PAIRED),
    "m2m_100": Row(PAIR, PAIRED),
    "fsmt": Row({**PAIR, "src_vocab_size": 96, "tgt_vocab_size": 96}, PAIRED, refused="has no linear output layer"),
}  # fmt: skip
