"""Who is let in, and to which routes: listed ones only, and a key on all but /health."""

from __future__ import annotations

import hmac
from collections.abc import MutableMapping
from typing import Any

from raylm.serve.envelope import Refusal, Refused, is_anthropic
from raylm.serve.keys import ANYBODY, KeyRecord, KeyRing, key_digest

# vLLM's own app also mounts routes that pause the engine, load adapters or run arbitrary calls: what is not here is not there
OPEN = {"/health": "GET"}
KEYED = {
    "/v1/models": "GET",
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/embeddings": "POST",
    "/v1/score": "POST",
    "/v1/rerank": "POST",
    "/pooling": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/version": "GET",
    "/metrics": "GET",
}
MODEL = "/v1/models/"


async def enter(scope: MutableMapping[str, Any], keys: KeyRing | None) -> KeyRecord:
    """The key that a request came with; ANYBODY where none is asked.

    Args:
        keys: None asks for no key.

    Raises:
        Refused: it may not come in, or there is no such route.
    """
    path, method, key = scope["path"], scope["method"], ANYBODY
    # the key comes first: without it nobody learns which routes there are
    if path not in OPEN and keys is not None:
        found = await keys.find(key_digest(_sent(scope)))
        if found is None:
            message = "Send the endpoint's key as 'Authorization: Bearer <key>'."
            raise Refused(Refusal(401, message, "invalid_api_key", headers=((b"www-authenticate", b"Bearer"),)))
        key = found
    taken = OPEN.get(path) or KEYED.get(path) or ("GET" if path.startswith(MODEL) else None)
    if taken is None:
        raise Refused(Refusal(404, f"No such route: {method} {path}", "unknown_url"))
    if method != taken:
        message = f"{path} takes {taken}, not {method}."
        raise Refused(Refusal(405, message, "method_not_allowed", headers=((b"allow", taken.encode()),)))
    return key


def check_scope(key: KeyRecord, model: str) -> None:
    """Raises Refused (403) where the key is for other models than `model`, which a request names."""
    if key.models and model not in key.models:
        message = f"This key is for the models {', '.join(key.models)}, not for `{model}`."
        raise Refused(Refusal(403, message, "model_not_allowed", "model"))


def check_whole(key: KeyRecord, path: str) -> None:
    """Raises Refused (403) where the key is for some models: `path` tells of all of them."""
    if key.models:
        message = f"This key is for the models {', '.join(key.models)}; {path} tells of the whole endpoint."
        raise Refused(Refusal(403, message, "route_not_allowed"))


def _sent(scope: MutableMapping[str, Any]) -> str:
    """The key in the headers; "" where there is not exactly one. Clients of Anthropic's shape have a header of their own."""
    own = [value for name, value in scope["headers"] if name.lower() == b"x-api-key"] if is_anthropic(scope["path"]) else []
    sent = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if own:
        return own[0].decode("latin-1").strip() if len(own) == 1 and not sent else ""
    scheme, _, key = sent[0].decode("latin-1").partition(" ") if len(sent) == 1 else ("", "", "")
    return key.strip() if scheme.lower() == "bearer" else ""


def is_stage(scope: MutableMapping[str, Any], header: str, digest: str) -> bool:
    """Whether a request carries the secret of the serve stage that `digest` is of."""
    sent = [value for name, value in scope["headers"] if name.lower() == header.encode()]
    return bool(digest) and len(sent) == 1 and hmac.compare_digest(key_digest(sent[0].decode("latin-1")), digest)
