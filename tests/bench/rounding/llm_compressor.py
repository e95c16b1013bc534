"""llm-compressor's GPTQ, run by the Python of its own environment: a model's folder and token rows (JSON) to a rounded folder.
Prints the seconds of CPU."""

import json
import sys
import time
from pathlib import Path


def main(path: str, rows: str, group: str, out: str) -> None:
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM

    found = json.loads(Path(rows).read_text())
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    data = Dataset.from_dict({"input_ids": found, "attention_mask": [[1] * len(row) for row in found]})
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": int(group)}
    recipe = GPTQModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])
    began = time.process_time()
    oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=len(found), max_seq_length=len(found[0]))
    print(json.dumps({"cpu_s": time.process_time() - began}))
    model.save_pretrained(out, save_compressed=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
