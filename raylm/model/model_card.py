"""The model card of a checkpoint: what it is, what it was made from, by which configs, with which figures and digests.

What names this machine or opens anything is left out: paths keep their last part, credentials nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from raylm.core.artifact import MANIFEST, Artifact, Checkpoint, open_artifact
from raylm.core.storage import Folder

SECRET = re.compile(
    r"(^|[._-])(api_?key|key|secret|token|pwd|passw(or)?d|passphrase|credentials?|auth|authorization|bearer|cookie)$",
    re.IGNORECASE,
)
IN_URL = re.compile(r"://[^/\s?#]*@")
SIGNED = re.compile(r"(://[^\s?#]*)[?#]\S*")
"""A URL's query: that of a signed one opens what it names."""
FAMILIES = {"causal": "text-generation", "masked": "fill-mask", "reward": "text-classification"}
"""The hub's names of what a model is for."""
CARD = "README.md"
LIBRARIES = {"onnx": "onnxruntime-genai", "mlx": "mlx", "megatron": "megatron-lm"}
"""Of exports; those that are not named hold a GGUF file."""
PROGRAMS = {
    "gguf": (
        ("llama.cpp", "llama-server -m FILE.gguf --jinja"),
        ("LM Studio", "lms import FILE.gguf"),
        ("KoboldCpp", "koboldcpp --model FILE.gguf --jinja"),
        ("text-generation-webui", "python server.py --loader llama.cpp --model FILE.gguf"),
        ("node-llama-cpp", "npx node-llama-cpp chat --model FILE.gguf"),
        (
            "OpenVINO GenAI (F16, Q8_0, Q4_0)",
            "python -c \"import openvino_genai as o; print(o.LLMPipeline('FILE.gguf', 'CPU').generate('Hi'))\"",
        ),
    ),
    "onnx": (("onnxruntime-genai", "python model-chat.py -m FOLDER -e cpu"),),
    "ollama": (("Ollama", "ollama create NAME -f Modelfile && ollama run NAME"),),
    "koboldcpp": (("KoboldCpp", "koboldcpp --config NAME.kcpps"),),
    "mlx": (("mlx-lm", "mlx_lm.generate --model FOLDER --prompt 'Hello'"),),
}
"""How each program runs an export of this kind."""


def model_card(made: Checkpoint, name: str, licence: str | None, base: str | None, adapter: bool) -> str:
    """README.md with the hub's YAML head.

    Args:
        name: of the repository.
        licence: the hub's key of a licence; None names none.
        base: hub name of the model that it was made from, where it has one.
        adapter: only the adapter is published.
    """
    stages = list(lineage(made))
    exported = made.made.variant.startswith("export:")
    library = LIBRARIES.get(made.made.variant.removeprefix("export:"), "gguf" if exported else "transformers")
    head = [
        f"library_name: {'peft' if adapter else library}",
        *([f"license: {licence}"] if licence else []),
        *([f"base_model: {base}"] if base else []),
        *([f"pipeline_tag: {FAMILIES[made.made.variant]}"] if made.made.variant in FAMILIES else []),
        *(["pipeline_tag: text-generation"] if exported else []),
        "tags:",
        "- raylm",
        *([f"- {made.facts['objective']}"] if made.facts.get("objective") else []),
    ]
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# {name.rsplit('/', 1)[-1]}",
        _what(made, base, adapter),
        "## Use\n\n" + (_programs(made) if exported else _use(made, name, base, adapter)),
        _parity(made),
        "## Made from\n\n" + _lineage(stages),
        "## Figures\n\n" + _table(("metric", "value"), list(_figures(made.metrics))),
        _figures_before(stages) if exported else "",
        "## Data sources\n\n" + _sources(stages),
        "## Configs\n\n" + "\n\n".join(_config(stage) for stage in stages),
        "## Files\n\n"
        + _table(
            ("file", "bytes", "digest"), [(f.path, f"{f.bytes:,}", f.digest) for f in made.manifest.files if f.path != CARD]
        ),
        "Versions: " + ", ".join(f"{key} {value}" for key, value in made.manifest.versions.items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def lineage(made: Artifact, seen: set[str] | None = None) -> Iterator[Artifact]:
    """The artifact and all that it was made from and is still there, each once; what was made last comes first."""
    seen = set() if seen is None else seen
    if made.uri in seen:
        return
    seen.add(made.uri)
    yield made
    for entry in made.manifest.inputs:
        if Folder(entry.uri).exists(MANIFEST):
            yield from lineage(open_artifact(Folder(entry.uri)), seen)


def public(value: Any, key: str = "") -> Any:
    """`value` of a config as strangers may read it."""
    if SECRET.search(key):
        return "..."
    if isinstance(value, dict):
        return {name: public(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value]
    if isinstance(value, str):
        value = SIGNED.sub(r"\1", IN_URL.sub("://", value))
        return ".../" + value.rstrip("/").rsplit("/", 1)[-1] if value.startswith(("/", "~", "file:")) else value
    return value


def _what(made: Checkpoint, base: str | None, adapter: bool) -> str:
    facts, config = made.facts, made.folder.read_json("config.json") if made.folder.exists("config.json") else {}
    kind = "An adapter" if adapter else "A checkpoint"
    weights = f", {facts['parameters']:,} weights" if facts.get("parameters") else ""
    family = f" of {config['model_type']}" if config.get("model_type") else ""
    start = f", trained from {base}" if base else ""
    return (
        f"{kind}{family} ({made.made.variant}{weights}){start}. Made by raylm "
        f"{made.manifest.versions.get('raylm', '')}, stage `{made.manifest.stage}`, {made.manifest.made_at}; fingerprint "
        f"`{made.fingerprint}`, payload `{made.content}`."
    )


def _use(made: Checkpoint, name: str, base: str | None, adapter: bool) -> str:
    auto = {"masked": "MaskedLM", "seq2seq": "Seq2SeqLM", "reward": "SequenceClassification"}.get(made.made.variant, "CausalLM")
    if adapter:
        lines = [
            "from peft import PeftModel",
            f"from transformers import AutoModelFor{auto}",
            "",
            f'model = PeftModel.from_pretrained(AutoModelFor{auto}.from_pretrained("{base}"), "{name}")',
        ]
    else:
        lines = [
            f"from transformers import AutoModelFor{auto}, AutoTokenizer",
            "",
            f'model, tokenizer = AutoModelFor{auto}.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")',
        ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _programs(made: Checkpoint) -> str:
    kind = made.made.variant.removeprefix("export:")
    known = [(program, f"`{command}`") for program, command in PROGRAMS.get(kind, ())]
    said = [("next", f"`{made.facts['use']}`")] if made.facts.get("use") else []
    return _table(("program", "command"), [*known, *said])


def _parity(made: Checkpoint) -> str:
    """What the programs said that were run on these files, beside transformers on the checkpoint that was exported."""
    found = made.facts.get("parity")
    if not found:
        return ""
    rows = [(program, words) for program, words in found.items()]
    return "## Parity\n\nGreedy answers, beside those of transformers in float32.\n\n" + _table(("program", "verdict"), rows)


def _figures_before(stages: list[Artifact]) -> str:
    """Those of the checkpoint that was exported."""
    # calibration rows and prompts may come of other models
    own = {entry.uri for entry in stages[0].manifest.inputs if entry.name == "model"}
    before = next((stage for stage in stages[1:] if isinstance(stage, Checkpoint) and stage.uri in own), None)
    if before is None or not before.metrics:
        return ""
    return f"Of `{before.manifest.stage}`, which was exported:\n\n" + _table(("metric", "value"), list(_figures(before.metrics)))


def _lineage(stages: list[Artifact]) -> str:
    known = {stage.uri: stage.manifest.stage for stage in stages}
    rows = []
    for stage in stages:
        inputs = [known.get(entry.uri) or f"{public(entry.uri)} (outside)" for entry in stage.manifest.inputs]
        rows.append((stage.manifest.stage, str(stage.made), ", ".join(inputs) or "-", stage.fingerprint, stage.content))
    return _table(("stage", "makes", "from", "fingerprint", "payload digest"), rows)


def _sources(stages: list[Artifact]) -> str:
    found = [
        f"- `{stage.manifest.stage}`: `{json.dumps(public(stage.manifest.config['source']))}`"
        for stage in stages
        if stage.manifest.config.get("source")
    ]
    return "\n".join(found) or "None is known: what it was made from lies outside."


def _config(stage: Artifact) -> str:
    text = json.dumps(public(stage.manifest.config), indent=1)
    return f"<details><summary>{stage.manifest.stage}</summary>\n\n```json\n{text}\n```\n\n</details>"


def _figures(metrics: dict[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "None."
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
