"""Who is let in, and to which routes: listed ones only, and a key on all but /health."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import MutableMapping
from typing import Any

from raylm.serve.envelope import Refusal

# vLLM's own app also mounts routes that pause the engine, load adapters or run arbitrary calls: what is not here is not there
OPEN = {"/health": "GET"}
KEYED = {
    "/v1/models": "GET",
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/v1/responses": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/version": "GET",
    "/metrics": "GET",
}
MODEL = "/v1/models/"


def refusal(scope: MutableMapping[str, Any], digest: str | None) -> Refusal | None:
    """Why a request may not come in; None lets it in. `digest` is `key_digest(key)`, None asks for no key."""
    path, method = scope["path"], scope["method"]
    # the key comes first: without it nobody learns which routes there are
    if path not in OPEN and digest is not None and not _has_key(scope, digest):
        message = "Send the endpoint's key as 'Authorization: Bearer <key>'."
        return Refusal(401, message, "invalid_api_key", headers=((b"www-authenticate", b"Bearer"),))
    taken = OPEN.get(path) or KEYED.get(path) or ("GET" if path.startswith(MODEL) else None)
    if taken is None:
        return Refusal(404, f"No such route: {method} {path}", "unknown_url")
    if method != taken:
        message = f"{path} takes {taken}, not {method}."
        return Refusal(405, message, "method_not_allowed", headers=((b"allow", taken.encode()),))
    return None


def _has_key(scope: MutableMapping[str, Any], digest: str) -> bool:
    sent = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    scheme, _, key = sent[0].decode("latin-1").partition(" ") if len(sent) == 1 else ("", "", "")
    return hmac.compare_digest(key_digest(key.strip()), digest) and scheme.lower() == "bearer"


def is_stage(scope: MutableMapping[str, Any], header: str, digest: str) -> bool:
    """Whether a request carries the secret of the serve stage that `digest` is of."""
    sent = [value for name, value in scope["headers"] if name.lower() == header.encode()]
    return bool(digest) and len(sent) == 1 and hmac.compare_digest(key_digest(sent[0].decode("latin-1")), digest)


def key_digest(key: str) -> str:
    """SHA-256 of the key. Keys are random and long, so a plain digest cannot be searched back."""
    return hashlib.sha256(key.encode()).hexdigest()
