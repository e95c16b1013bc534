"""Takes a stage's table, leaves its artifact: what `raylm run` does for one stage, without the other verbs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from raylm.core.artifact import Artifact, InputEntry, open_artifact
from raylm.core.config import StageConfig, digest_of, references
from raylm.core.context import Context
from raylm.core.storage import Folder
from raylm.core.workers import Workers


def run_stage(root: Path, name: str, cfg: StageConfig, workers: Workers) -> Artifact:
    """Run the stage `name` in `root`; its references name stages that were run there before."""
    stages = {path.name: Folder(path) for path in root.iterdir() if path.is_dir()} | {name: Folder(root / name)}
    entries = []
    for ref in references(cfg):
        if ref.value in stages:
            found = open_artifact(stages[ref.value])
            entries.append(InputEntry(name=".".join(ref.path), uri=found.uri, fingerprint=found.fingerprint, kind=found.kind))
    identity: dict[str, Any] = {"config": cfg.identity(), "inputs": {entry.name: entry.fingerprint for entry in entries}}
    ctx = Context(
        stage=name,
        out=stages[name].make(),
        stages=stages,
        workers=workers,
        config=cfg.model_dump(mode="json"),
        identity=identity,
        inputs=entries,
        fingerprint=digest_of(identity),
    )
    verb = type(cfg).model_fields["stage"].default
    return importlib.import_module(f"raylm.{verb}.stage").run(cfg, ctx)


def payload(artifact: Artifact) -> dict[str, str]:
    """Digest of every payload file: two runs made the same bytes when these are equal."""
    return {entry.path: entry.digest for entry in artifact.manifest.files}


def tables_of(readme: Path) -> dict[str, dict[str, Any]]:
    """The stages of the first job in a README."""
    import tomllib

    return tomllib.loads(readme.read_text().split("```toml\n")[1].split("```")[0])["stages"]
