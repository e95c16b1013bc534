"""What is known of a checkpoint before a replica is asked to take it: its gate, its files, its tokenizer, and what it says.

Runs in the process of the command, which has torch; replicas and Control get the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import MANIFEST, Artifact, Checkpoint, Report, open_artifact
from raylm.core.config import digest_of
from raylm.core.errors import ArtifactError, ConfigError, StageError
from raylm.core.storage import Folder
from raylm.inference.engine_dtype import network_of
from raylm.inference.generator import NO_NETWORK
from raylm.serve.updates.history import Probed, Proof, Turn

GENERATION = "generation_config.json"


class Target(NamedTuple):
    """A checkpoint that an endpoint may be updated to."""

    uri: str
    fingerprint: str
    content: str
    folder: str
    """On this machine."""
    artifact: Artifact | None


def target(ref: str) -> Target:
    """The checkpoint that `ref` names: one that raylm made, or a folder of Hugging Face's layout. All of its files are read.

    Raises:
        ArtifactError: there is none, or a file is not what its manifest says.
    """
    from raylm.model.load import on_this_machine

    at = Folder(ref)
    if at.exists(MANIFEST):
        made = open_artifact(at)
        if not isinstance(made, Checkpoint):
            raise ArtifactError(f"an endpoint serves a Checkpoint, this is a {made.kind}", where=made.uri)
        for entry in made.manifest.files:
            if at.digest(entry.path) != entry.digest:
                raise ArtifactError(
                    "this file is not the one that was made: its digest differs from the manifest's",
                    where=at.path(entry.path),
                    next="copy the checkpoint again, or make it again with --rebuild",
                )
        return Target(made.uri, made.fingerprint, made.content, on_this_machine(made.uri), made)
    if not at.exists("config.json"):
        raise ArtifactError("no checkpoint is here", where=ref, next="name a stage's folder, or one with config.json and weights")
    files = [[name, at.digest(name)] for name in sorted(at.files()) if not name.split("/")[-1].startswith(".")]
    content = digest_of(files)
    # what raylm did not make is known by its bytes: a folder that was written anew is another version
    return Target(at.uri, digest_of([at.uri, content]), content, on_this_machine(at.uri), None)


def check_gate(found: Target, requires: bool, report: str | None) -> str:
    """URI of the report whose gate the checkpoint passed; "" where none is asked.

    Args:
        requires: whether the endpoint asks for one (`requires` of its job).
        report: what the user names; without it the folders beside the checkpoint are looked through.

    Raises:
        StageError: there is none, it is of another checkpoint, or its gate did not pass.
    """
    if not requires and report is None:
        return ""
    named = [Folder(report)] if report is not None else _beside(found)
    reports = [each for folder in named if isinstance(each := open_artifact(folder), Report)]
    of_it = [each for each in reports if any(entry.fingerprint == found.fingerprint for entry in each.manifest.inputs)]
    if not of_it:
        raise StageError(
            "no evaluation report of this checkpoint was found, and the endpoint asks for one (requires)"
            if report is None
            else "this report is not of this checkpoint",
            where=report or found.uri,
            next="evaluate it, then say --report FOLDER",
        )
    last = max(of_it, key=lambda each: each.manifest.made_at)
    if last.facts.get("passed") is False:
        raise StageError(
            f"the gate did not pass: {'; '.join(map(str, last.facts.get('reasons') or ['no reason given']))}",
            where=last.uri,
            next="read the report; the endpoint goes on with what it has",
        )
    return last.uri


def differences(now: str, to: str) -> list[str]:
    """Why the checkpoint in `to` cannot take the place of the one in `now` inside an engine; nothing where it can.

    Both are folders on this machine. Network, tokenizer, chat template, the tokens that end an answer and the sampling defaults
    must be the same: an engine reads them once, when it starts.
    """
    from raylm.inference.weight_swap import refuse_other
    from raylm.model.checkpoint import end_tokens
    from raylm.model.load import load_tokenizer

    found = [f"config.json: {key}" for key in _differ(_network(now), _network(to))]
    if "quantization_config" in network_of(to):
        found.append("quantized weights are laid out by the engine when it starts")
    mine, other = load_tokenizer(now), load_tokenizer(to)
    if _written(mine) != _written(other):
        found.append("tokenizer.json")
    if mine.chat_template != other.chat_template:
        found.append("chat template")
    if mine.special_tokens_map != other.special_tokens_map:
        found.append("special tokens")
    if end_tokens(Path(now), mine) != end_tokens(Path(to), other):
        found.append("tokens that end an answer")
    found += [f"{GENERATION}: {key}" for key in _differ(_generation(now), _generation(to))]
    if not found:
        try:
            refuse_other(Path(now), Path(to))
        except ArtifactError as refused:
            found.append(refused.what)
    return found


def proof(folder: str, dtype: str, texts: tuple[str, ...], compare_up_to_gb: float) -> Proof:
    """What transformers says with the checkpoint in `folder`, computing in `dtype`: prompts and greedy answers of `texts`, and
    the log-probabilities of both. Loads the weights into this process, unless they are larger than `compare_up_to_gb`.
    """
    from raylm.model.checkpoint import end_tokens
    from raylm.model.load import load_tokenizer
    from raylm.serve.updates import reference

    size, ends = reference.weights_gb(folder), end_tokens(Path(folder), load_tokenizer(folder))
    compared = size is not None and 0 < size <= compare_up_to_gb
    turns = [
        Turn(text=each.text, prompt=each.prompt, greedy=each.greedy.tokens, likely=each.greedy.likely)
        if each.greedy
        else Turn(text=each.text, prompt=each.prompt)
        for each in reference.expected(folder, list(texts), dtype, compared)
    ]
    return Proof(
        dtype=dtype,
        quantized=reference.network(folder).quantized,
        ends=ends,
        turns=turns,
        probes=list(_probed(folder, dtype, turns)) if compared else [],
        why_not="" if compared else f"its weights are larger than compare_up_to_gb = {compare_up_to_gb:g}",
    )


def _probed(folder: str, dtype: str, turns: list[Turn]) -> Iterator[Probed]:
    """Log-probabilities of each prompt with its answer: at every place of a prompt of what the checkpoint itself goes on with."""
    import torch

    from raylm.model.load import load_model

    network: Any = load_model(folder, dtype).eval()
    for turn in turns:
        tokens = [*turn.prompt, *turn.greedy]
        if len(tokens) < 2:
            continue
        ids_T = torch.tensor(tokens)
        with torch.no_grad():
            logprobs_TV = network(ids_T[None]).logits[0, :-1].float().log_softmax(-1)
        yield Probed(tokens=tokens, logprobs=logprobs_TV.gather(1, ids_T[1:, None])[:, 0].tolist())


def _beside(found: Target) -> list[Folder]:
    """Folders with manifests beside the checkpoint's own, on a disk."""
    at = Path(found.uri)
    if not at.is_dir():
        return []
    kept = []
    for manifest in sorted(at.parent.glob(f"*/{MANIFEST}")):
        try:
            kind = json.loads(manifest.read_text()).get("kind")
        except ValueError:
            continue
        if kind == Report.kind:
            kept.append(Folder(manifest.parent))
    return kept


def _network(folder: str) -> dict[str, Any]:
    config = network_of(folder)
    if not config:
        raise ConfigError("the weights lie in no folder of this machine", where=folder, next="raylm update --rolling")
    return {key: value for key, value in config.items() if key not in NO_NETWORK}


def _generation(folder: str) -> dict[str, Any]:
    file = Path(folder) / GENERATION
    found = json.loads(file.read_text()) if file.is_file() else {}
    # which tokens end an answer is compared by what comes of it
    return {key: value for key, value in found.items() if key not in (*NO_NETWORK, "eos_token_id", "_from_model_config")}


def _differ(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _written(tokenizer: Any) -> Any:
    """tokenizer.json as it is used, less what a call may have set."""
    try:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
    except AttributeError:
        return tokenizer.get_vocab()
    return {key: value for key, value in parts.items() if key not in ("truncation", "padding")}
