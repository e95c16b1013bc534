"""Small LoRA adapters of peft's own, for what loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_adapter(model: Path, folder: Path, seed: int = 0, **config: Any) -> Path:
    """An adapter beside `model` whose matrices are random and matter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    made = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **config}))
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    made.save_pretrained(str(folder))
    return folder


def greedy(model: Path, adapter: Path | None, prompt: list[int], count: int) -> list[int]:
    """What transformers and peft draw greedily."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made: Any = AutoModelForCausalLM.from_pretrained(model)
    made = PeftModel.from_pretrained(made, str(adapter)) if adapter else made
    with torch.no_grad():
        drawn = made.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None)
    return drawn[0, len(prompt) :].tolist()
