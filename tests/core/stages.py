"""Contexts for tests that run one stage without a job."""

from pathlib import Path
from typing import Any

from raylm.core.artifact import InputEntry, open_artifact
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
