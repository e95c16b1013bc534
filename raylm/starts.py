"""Checks the weights that a stage starts from against what it needs; reads file headers only, no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylm.core.artifact import MANIFEST, Artifact, Checkpoint, Endpoint, kind_in
from raylm.core.config import ENDPOINT, Makes, references
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.core.variants import VALUED, refusal
from raylm.data.mixture import refs_of
from raylm.model.preflight import Needs, check_folder, check_tokens, variant_in


def check_starts(name: str, stages: dict[str, Any], folder: Callable[[str], Folder]) -> None:
    """Look at all weights that stage `name` starts from, as far as they lie on this machine.

    Args:
        stages: the job's stages by name.
        folder: where the artifact of a stage lies.

    Raises:
        ArtifactError, ConfigError: it cannot start from them.
    """
    cfg = stages[name]
    needs = _needs(cfg)
    if needs is None:
        return
    for ref in references(cfg):
        if "Checkpoint" not in ref.kinds:
            continue
        if ref.value in stages and not folder(ref.value).exists(MANIFEST):
            continue
        if ref.value in stages and stages[ref.value].makes() == ENDPOINT:
            continue
        at = folder(ref.value) if ref.value in stages else Folder(ref.value)
        if not at.is_local or kind_in(at) == Endpoint.kind:
            continue
        if ref.path[0] == "adapter":
            # it may be a folder of peft's, which is no model
            if Path(at.path()).is_dir():
                cfg.adapter.opened(at.path(), _folder_of(cfg.model, stages, folder))
            continue
        if Path(at.path()).is_dir():
            variant = variant_in(Path(at.path()))
            fits = not variant or ref.accepts(Makes("Checkpoint", variant))
            if fits or not variant.startswith(("reward", "export")):
                config = check_folder(Path(at.path()), needs)
                _check_format(cfg, config, at.path())
            if not fits:
                words, remedy = refusal(variant, ref.variants)
                raise ConfigError(f"{name!r} cannot use {words}", where=at.path(), next=remedy)
            _check_tokenizer(cfg, stages, Path(at.path()))
        elif ref.value.startswith(("/", "./", "../", "~")):
            raise ArtifactError(
                "there is no such folder", where=ref.value, next="name a folder with config.json and *.safetensors, or a hub name"
            )


def _folder_of(model: Any, stages: dict[str, Any], folder: Callable[[str], Folder]) -> str:
    """The local folder of the weights that a stage starts from; "" where they are not made yet, or elsewhere."""
    at = folder(model) if isinstance(model, str) and model in stages else Folder(model) if isinstance(model, str) else None
    return at.path() if at is not None and at.is_local and Path(at.path()).is_dir() else ""


def made_of(found: Artifact) -> Makes:
    """What an artifact is. Of a Checkpoint whose manifest is older than variants, config.json knows better than the facts."""
    if not isinstance(found, Checkpoint) or found.manifest.variant or not found.folder.is_local:
        return found.made
    return found.made._replace(variant=variant_in(Path(found.folder.path())) or found.made.variant)


def _needs(cfg: Any) -> Needs | None:
    """What each verb asks of weights; None for those that take none, or models of other kinds."""
    if cfg.stage == "train":
        # what trains a reward model or a classifier goes on with one, too
        valued = getattr(cfg.objective, "makes", "") in VALUED
        return Needs(
            getattr(cfg.objective, "model", None),
            plain=True,
            value_head=valued,
            four_bits=getattr(cfg.adapter, "takes_4bit", False),
        )
    return {
        "rl": Needs("causal", plain=True, engine=True, text=True),
        "compress": Needs(plain=True),
        "generate": Needs("causal", engine=True),
        "evaluate": Needs(engine=True),
        "serve": Needs("causal", engine=True),
    }.get(cfg.stage)


def _check_format(cfg: Any, config: dict[str, Any], where: str) -> None:
    """Whether what is exported has a place in the other program; formats of somebody else's are asked when they write."""
    written = cfg.cards()[1] if cfg.stage == "compress" else None
    if (check := getattr(written, "check_config", None)) is not None:
        check(config, where)


def _check_tokenizer(cfg: Any, stages: dict[str, Any], model: Path) -> None:
    """Compare with the tokenizer that the stage's rows will be made with, where it lies on this machine."""
    for rows in refs_of(cfg.rows) if cfg.stage == "train" else [cfg.prompts] if cfg.stage == "rl" else ():
        tokenizer = getattr(stages.get(rows), "tokenizer", None)
        if isinstance(tokenizer, str) and tokenizer not in stages and Folder(tokenizer).is_local:
            at = Path(Folder(tokenizer).path())
            # rows bring theirs in a folder of its own
            check_tokens(at / "tokenizer" if (at / "tokenizer").is_dir() else at, model, rows)
