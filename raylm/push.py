"""`raylm push`: a finished checkpoint, its adapter and a model card to a repository of a hub.

files, digests checked --> uploaded one after the other (what is there already is not sent again) --> one commit
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from raylm import job
from raylm.core.artifact import METRICS, REPORT, Checkpoint, FileEntry, open_artifact
from raylm.core.config import did_you_mean
from raylm.core.errors import ArtifactError, ConfigError, StorageError
from raylm.model.headers import ADAPTER
from raylm.model.licence import licence_of
from raylm.model.model_card import model_card

TOKEN = "HF_TOKEN"
"""Environment variable with the hub's token. It is read from nowhere else, and written nowhere."""
CARD = "README.md"
MODEL = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model", "additional_chat_templates/*",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
"""What of it is the merged model's alone."""


class Part(NamedTuple):
    """One file to publish."""

    path: str
    """In the repository."""
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def run(arguments: argparse.Namespace) -> int:
    """Publish, or with --dry-run print what would be."""
    loaded = job.load(arguments.job, arguments.set)
    if arguments.stage not in loaded.stages:
        raise ConfigError(f"there is no such stage.{did_you_mean(arguments.stage, loaded.stages)}", where=arguments.job)
    made = open_artifact(loaded.folder(arguments.stage))
    if not isinstance(made, Checkpoint):
        raise ArtifactError(f"a Checkpoint is pushed, this is a {made.kind}", where=made.uri, next="name a train or rl stage")
    licence = licence_of(Path(made.folder.local()), arguments.license).key
    parts = parts_of(made, arguments.repo, licence, arguments.base, arguments.only)
    if licence is None:
        print("no licence is named: --license apache-2.0 (or another key of the hub) puts one on the card")
    for part in parts:
        print(f"  {part.path}  {part.size:,} bytes")
    total = f"{len(parts)} files, {sum(part.size for part in parts) / 1e6:.1f} MB"
    words = ["raylm", "push", arguments.job, arguments.stage, arguments.repo]
    if arguments.dry_run:
        card = next(part.content for part in parts if part.path == CARD)
        assert isinstance(card, bytes)
        print(f"\n{card.decode()}\n{total}. Nothing was sent.\nnext: {' '.join(words)}")
        return 0
    url = push(parts, arguments.repo, Target(arguments.endpoint, arguments.revision, arguments.tag, arguments.public), made)
    print(f"{total}: {url}\nnext: name {arguments.repo} as `model` of a stage, or raylm show {made.uri}")
    return 0


class Target(NamedTuple):
    """Where in the hub."""

    endpoint: str | None = None
    """URL of the hub; the one that HF_ENDPOINT names, or huggingface.co."""
    revision: str | None = None
    """A branch, made where it is not there."""
    tag: str | None = None
    public: bool = False


def parts_of(made: Checkpoint, repo: str, licence: str | None, base: str | None, only: str | None) -> list[Part]:
    """The files to publish, the card first.

    Args:
        base: hub name of the model under the adapter; known where training began with one.
        only: `adapter` or `merged`; both where there are both.

    Raises:
        ArtifactError: there is no adapter, its base is a folder of this machine, or a file is not what the manifest says.
    """
    entries = made.manifest.files
    adapters = [entry for entry in entries if entry.path.startswith("adapter/")]
    begun = made.facts.get("base_model")
    base = base or (begun if begun and _is_hub_name(begun, made) else None)
    if only == "adapter" and not adapters:
        raise ArtifactError("this checkpoint has no adapter", where=made.uri, next="push it without --adapter")
    if only == "adapter" and base is None:
        raise ArtifactError(
            f"the adapter stands beside {begun!r}, which others do not have",
            where=made.uri,
            next="name the hub's model with --base, or push that one first; --merged needs none",
        )
    exported = made.made.variant.startswith("export:")
    models = [e for e in entries if not e.path.startswith("adapter/") and (_is_model(e) or (exported and not _is_record(e)))]
    if only == "adapter":
        models = [entry for entry in models if not any(fnmatch(entry.path, each) for each in WEIGHTS)]
    parts = [Part(entry.path, _checked(made, entry)) for entry in models]
    for entry in adapters if only != "merged" else ():
        name = entry.path.removeprefix("adapter/") if only == "adapter" else entry.path
        if name == CARD:
            # peft's own, without what this adapter was made of
            continue
        content: Path | bytes = _checked(made, entry)
        if entry.path.endswith(ADAPTER):
            content = _with_base(content, base or ".")
        parts.append(Part(name, content))
    card = model_card(made, repo, licence, base, only == "adapter")
    return [Part(CARD, card.encode()), *parts]


def push(parts: list[Part], repo: str, target: Target, made: Checkpoint) -> str:
    """Create the repository where it is not there, upload, and commit all at once; the commit's URL.

    Raises:
        ConfigError: no token, or a public repository that is not meant to be.
        StorageError: the hub refused, or could not be reached. Sent again, what lies there is not uploaded twice.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    token = os.environ.get(TOKEN)
    if not token:
        raise ConfigError(f"{TOKEN} is not set", next=f"export {TOKEN}=... (a token that may write, from the hub's settings)")
    api = HfApi(endpoint=target.endpoint, token=token)
    with _in_words(repo):
        api.create_repo(repo, private=not target.public, exist_ok=True)
        if not target.public and api.repo_info(repo).private is False:
            raise ConfigError(f"{repo} is public", next="add --public if that is meant, or name another repository")
        if target.revision:
            api.create_branch(repo, branch=target.revision, exist_ok=True)
        added = [
            CommitOperationAdd(part.path, str(part.content) if isinstance(part.content, Path) else part.content) for part in parts
        ]
        for part, operation in zip(parts, added, strict=True):
            # one by one: what a kill leaves behind is found again by its digest
            api.preupload_lfs_files(repo, [operation], revision=target.revision, free_memory=False)
            print(f"  sent {part.path}", flush=True)
        said = f"raylm: {made.manifest.stage} {made.fingerprint}"
        commit = api.create_commit(repo, added, commit_message=said, revision=target.revision)
        if target.tag:
            api.create_tag(repo, tag=target.tag, revision=commit.oid, tag_message=said)
    return str(commit.commit_url)


@contextlib.contextmanager
def _in_words(repo: str) -> Iterator[None]:
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError, RuntimeError, ValueError) as cause:
        while isinstance(cause, RuntimeError) and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        said = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise StorageError(
            f"the hub did not take it: {said[:400]}",
            where=repo,
            next="the same command goes on: what has been uploaded is not sent again",
        ) from cause


def _checked(made: Checkpoint, entry: FileEntry) -> Path:
    """The local file. Raises ArtifactError where its digest is not the manifest's: weights that were changed are no artifact."""
    if (found := made.folder.digest(entry.path)) != entry.digest:
        raise ArtifactError(
            f"digest {found}, the manifest says {entry.digest}: the file was changed",
            where=made.folder.path(entry.path),
            next="make the stage again with --rebuild",
        )
    return Path(made.folder.local()) / entry.path


def _with_base(file: Path, base: str) -> bytes:
    """adapter_config.json with a base that others can find."""
    return (json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": base}, indent=2) + "\n").encode()


def _is_model(entry: FileEntry) -> bool:
    return any(fnmatch(entry.path, pattern) for pattern in MODEL)


def _is_record(entry: FileEntry) -> bool:
    # a card is written anew, with the repository's name
    return entry.path in (METRICS, REPORT, CARD)


def _is_hub_name(name: str, made: Checkpoint) -> bool:
    """Whether the base is neither a stage of the job nor a folder."""
    from raylm.core.storage import Folder

    outside = [entry for entry in made.manifest.inputs if entry.uri == name]
    return bool(outside) and "://" not in name and not Folder(name).exists() and name.count("/") <= 1
