"""Normal form of URL hosts, so that different spellings of a host compare equal."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

# what browsers take for the dot between labels, https://url.spec.whatwg.org/#host-parsing
_DOTS = re.compile("[\u3002\uff0e\uff61]")
_PORT = re.compile(r":(?:80|443)?\Z")


def one_host(authority: str) -> str:
    """`user@WWW.Bücher.example.:443` and `xn--bcher-kva.example` are one; another port stays."""
    host = _PORT.sub("", authority.rpartition("@")[2])
    if "%" in host:
        host = unquote(host)
    if not host.isascii():
        host = _DOTS.sub(".", unicodedata.normalize("NFKC", host))
    host, colon, port = host.lower().partition(":") if not host.startswith("[") else (host.lower(), "", "")
    if "xn--" in host:
        host = ".".join(map(_label, host.split(".")))
    return f"{host.rstrip('.').removeprefix('www.')}{colon}{port}"


def _label(label: str) -> str:
    """A label in letters; one that is no Punycode as it is."""
    if not label.startswith("xn--"):
        return label
    try:
        return unicodedata.normalize("NFKC", label[4:].encode().decode("punycode").lower())
    except (UnicodeError, ValueError):
        return label
