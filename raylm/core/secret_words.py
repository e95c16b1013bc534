"""Which words of a command look secret: those are neither printed nor sent where others may read them."""

from __future__ import annotations

import re

# counts per token are no secrets
_NAME = r"(?:[A-Za-z0-9]+[._-])*(?:api_?key|key|secret|(?<!per_)token|passw(?:or)?d|credentials?|authorization)"
_KEY = re.compile(rf"(?:^|[._-]){_NAME}$", re.IGNORECASE)
_IN_TABLE = re.compile(rf"[{{,\s\"']{_NAME}[\"']?\s*=\s*[\"']", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/@\s]+@")


def looks_secret(assignment: str) -> bool:
    """Whether the value of `a.b.c=value` may be a secret: by its key, by a key of a table in it, or as a part of a URL."""
    key, _, value = assignment.partition("=")
    return bool(_KEY.search(key) or _IN_TABLE.search(value) or _IN_URL.search(value))
