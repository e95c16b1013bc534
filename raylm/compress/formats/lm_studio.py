"""LM Studio: `models/PUBLISHER/NAME/FILE.gguf`, as its folder of models is laid out, and a model.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.formats.gguf import GgufFile

PART = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
SAMPLING = {
    "temperature": "temperature", "top_k": "topKSampling", "top_p": "topPSampling", "min_p": "minPSampling",
    "repetition_penalty": "repeatPenalty",
}  # fmt: skip
"""Keys of generation_config.json, and of LM Studio's `llm.prediction`; of the last three it wants to know whether they are on."""
SWITCHED = ("topPSampling", "minPSampling", "repeatPenalty")


class LmStudio(GgufFile):
    """Copied into ~/.lmstudio/models it is listed; model.yaml (https://modelyaml.org) is for its hub."""

    variant: ClassVar[str] = "export:lm_studio"

    kind: Literal["lm_studio"] = "lm_studio"
    publisher: str = Field(default="local", pattern=PART)
    """First folder; with `name` the repository that model.yaml fetches from: push to the same one."""
    name: str = Field(default="model", pattern=PART)
    """Second folder, and the model's name in LM Studio."""

    def file_name(self) -> str:
        return f"models/{self.publisher}/{self.name}/{self.name}-{self.dtype}.gguf"

    def write_around(self, folder: Path, at: Path, file: Path) -> dict[str, Any]:
        """Write model.yaml."""
        import yaml

        from raylm.compress.chat_settings import chat_settings, reads_tools

        settings = chat_settings(folder)
        key = f"{self.publisher}/{self.name}"
        fields = []
        said = {key: settings.generation[key] for key in SAMPLING if settings.generation.get(key) is not None}
        if not settings.generation.get("do_sample", True):
            said = {key: said[key] for key in ("repetition_penalty",) if key in said} | {"temperature": 0}
        if said:
            # transformers punishes no repetition where nothing says so, LM Studio does by 1.1
            said.setdefault("repetition_penalty", 1.0)
        for theirs, ours in SAMPLING.items():
            if theirs in said:
                value = {"checked": True, "value": said[theirs]} if ours in SWITCHED else said[theirs]
                fields.append({"key": f"llm.prediction.{ours}", "value": value})
        overrides: dict[str, Any] = {
            "domain": "llm",
            "architectures": [settings.model_type],
            "compatibilityTypes": ["gguf"],
            "minMemoryUsageBytes": file.stat().st_size,
            "trainedForToolUse": reads_tools(settings.tokenizer),
            "vision": False,
        }
        if settings.max_length:
            overrides["contextLengths"] = [settings.max_length]
        model = {
            "model": key,
            "base": [{"key": f"{key}-gguf", "sources": [{"type": "huggingface", "user": self.publisher, "repo": self.name}]}],
            "metadataOverrides": overrides,
            **({"config": {"operation": {"fields": fields}}} if fields else {}),
        }
        (at / "model.yaml").write_text(yaml.safe_dump(model, sort_keys=False, allow_unicode=True))
        return {"model_key": key}

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"cp -r {out}/models/{self.publisher} ~/.lmstudio/models/"
