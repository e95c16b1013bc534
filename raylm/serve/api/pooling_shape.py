"""What is asked of models that give vectors or scores: the texts of /v1/embeddings, /pooling, /v1/score, /v1/rerank."""

from __future__ import annotations

from typing import Any

from raylm.serve.envelope import bad_request

PATHS = ("/v1/embeddings", "/pooling", "/v1/score", "/v1/rerank")
# a pair is one of each side; vLLM knows the first side by several names, and the second
SIDES = ("text_1", "text_2", "queries", "items", "data_1", "data_2", "query", "documents")


def texts(path: str, asked: dict[str, Any], most: int) -> list[Any]:
    """The texts (or lists of token ids) of a request that stand in fields of their own; those of `messages` are no part of them.

    Raises:
        Refused: they are no texts, or more than `most`.
    """
    names = SIDES if path in ("/v1/score", "/v1/rerank") else ("input",)
    found = list[Any]()
    for name in names:
        given = asked.get(name)
        if given is None:
            continue
        each = [given] if isinstance(given, str) or _is_ids(given) else given
        if not isinstance(each, list) or not each or not all(isinstance(text, str) or _is_ids(text) for text in each):
            raise bad_request(f"`{name}` must be a text, token ids, or a list of one of them with at least one.", name)
        if len(each) > most:
            raise bad_request(f"`{name}` has {len(each)} texts, at most {most} are taken.", name)
        found += [each] if _is_ids(each) else each
    if not found and asked.get("messages") is None:
        raise bad_request(f"There is nothing to read: send `{names[0]}`.", names[0])
    return found


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
