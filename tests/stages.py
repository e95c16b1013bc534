"""The context and the artifact of one stage, as `raylm run` makes them, without the rest of a job."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from raylm.core.artifact import Artifact, InputEntry, open_artifact
from raylm.core.config import StageConfig, digest_of, references
from raylm.core.context import Context
from raylm.core.storage import Folder
from raylm.core.workers import Workers


def context(root: Path, stage: str, cfg: StageConfig | None = None, workers: Workers | None = None) -> Context:
    """The context that a job in `root` would hand to `stage`; the other folders of `root` are the job's other stages."""
    stages = {path.name: Folder(path) for path in sorted(root.glob("*")) if path.is_dir()} | {stage: Folder(root / stage)}
    inputs = []
    for ref in references(cfg) if cfg else ():
        if ref.value in stages:
            found = open_artifact(stages[ref.value])
            inputs.append(InputEntry(name=".".join(ref.path), uri=found.uri, fingerprint=found.fingerprint, kind=found.kind))
    identity: dict[str, Any] = {"config": cfg.identity() if cfg else {}, "inputs": {i.name: i.fingerprint for i in inputs}}
    return Context(
        stage=stage,
        out=Folder(root / stage).make(),
        stages=stages,
        workers=workers or Workers(),
        config=cfg.model_dump(mode="json") if cfg else {},
        identity=identity,
        inputs=inputs,
        fingerprint=digest_of([stage, identity]),
    )


def run_stage(root: Path, name: str, cfg: StageConfig, workers: Workers) -> Artifact:
    """Run the stage `name` in `root`; its references name stages that were run there before."""
    verb = type(cfg).__module__.split(".")[1]
    return importlib.import_module(f"raylm.{verb}.stage").run(cfg, context(root, name, cfg, workers))


def payload(artifact: Artifact) -> dict[str, str]:
    """Digest of every payload file: two runs made the same bytes when these are equal. A report tells times; it is none."""
    return {entry.path: entry.digest for entry in artifact.manifest.files if entry.path != "report.html"}


def tables_of(readme: Path) -> dict[str, dict[str, Any]]:
    """The stages of the first job in a README."""
    import tomllib

    return tomllib.loads(readme.read_text().split("```toml\n")[1].split("```")[0])["stages"]
