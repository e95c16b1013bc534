"""What /v1/models says of a model: what OpenAI's clients know, and under `metadata` where its weights come from. No path of a
machine: whoever asks learns names and fingerprints, with which `raylm show` walks back."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from raylm.core.artifact import Artifact, Report
from raylm.serve.directory import Address, View

OWNER = "raylm"
ADAPTERS = "adapters"
"""Key of a lineage that holds those of adapters, by name."""
FAILED = "failed_adapters"
"""Key of a lineage that holds why adapters that are ordered are not there, by name: for operators, not for clients."""


def lineage_of(made: Artifact | None, name: str, fingerprint: str, report: Report | None = None) -> dict[str, Any]:
    """Where the weights of a model come from.

    Args:
        made: the checkpoint; None for weights that raylm did not make.
        name: the weights as the job names them.
        report: what they were evaluated with.
    """
    lineage: dict[str, Any] = {"fingerprint": fingerprint, "created": _seconds(made.manifest.made_at if made else "")}
    if made is None:
        lineage["base_model"] = _plain(name)
    else:
        job, _, stage = made.uri.rstrip("/").rpartition("/")
        lineage |= {"job": job.rpartition("/")[2], "stage": stage, "variant": made.made.variant}
        base = made.manifest.config.get("model")
        lineage["base_model"] = _plain(base) if isinstance(base, str) and base else None
    if report is not None:
        passed = report.facts.get("passed")
        told = {"name": report.uri.rstrip("/").rpartition("/")[2], "fingerprint": report.fingerprint}
        lineage["report"] = told | {"passed": passed if isinstance(passed, bool) else None}
    return lineage


def card(name: str, max_len: int, lineage: dict[str, Any], parent: str | None = None) -> dict[str, Any]:
    """A model as /v1/models lists it.

    Args:
        max_len: most tokens of prompt and answer together.
        lineage: as `lineage_of` tells it.
        parent: the name of the model that it is an adapter of.
    """
    known = {key: value for key, value in lineage.items() if key not in ("created", ADAPTERS, FAILED)}
    return {
        "id": name,
        "object": "model",
        "created": int(lineage.get("created") or 0),
        "owned_by": OWNER,
        "max_model_len": max_len,
        "parent": parent,
        "metadata": known,
    }


def cards(address: Address) -> list[dict[str, Any]]:
    """The model that a replica answers for, and the adapters that it has loaded."""
    further = address.lineage.get(ADAPTERS) or {}
    own = card(address.model, address.max_len, address.lineage)
    return [own, *(card(name, address.max_len, further.get(name) or {}, address.model) for name in address.adapters)]


def listed(view: View) -> list[dict[str, Any]]:
    """All models of an endpoint. An adapter is listed when every replica that answers for its model has it: one that a replica
    could not load would be there for some requests alone."""
    found, ready = dict[str, dict[str, Any]](), [each.address for each in view.replicas if each.state == "ready"]
    for address in ready:
        beside = [each.adapters for each in ready if each.model == address.model]
        for each in cards(address):
            if each["parent"] is None or all(each["id"] in adapters for adapters in beside):
                found.setdefault(each["id"], each)
    return list(found.values())


def _seconds(made_at: str) -> int:
    try:
        return int(datetime.fromisoformat(made_at).timestamp())
    except ValueError:
        return int(time.time())


def _plain(name: str) -> str:
    """A name of the hub as it is; of a folder or URI the last part."""
    text = name.rstrip("/")
    is_place = "://" in text or text.startswith(("/", ".", "~")) or text.count("/") > 1
    return text.rpartition("/")[2] if is_place else text
