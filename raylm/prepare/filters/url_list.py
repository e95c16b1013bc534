"""The `url_list` filter: drops documents whose URL or domain is on a block list."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import model_validator

from raylm.core.config import Config
from raylm.prepare.filters.verdicts import Verdicts, verdicts
from raylm.prepare.hosts import one_host
from raylm.prepare.lists import absolute, lines_of
from raylm.prepare.metadata import value_of

if TYPE_CHECKING:
    import pyarrow as pa

_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.\-]*:)?//", re.IGNORECASE)
# browsers leave them out
_BREAKS = re.compile(r"[\t\r\n]")
_WORDS = re.compile(r"[^\W_]+")
# a line of a hosts file: an address of this machine, then the name that is blocked
_HOSTS = re.compile(r"^(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+(\S+)")


class UrlList(Config):
    """Drops documents by their URL, which is read from the metadata; documents without one stay, and are counted.

    Reasons: blocked_domain (the domain or one above it), blocked_url (scheme, `www.`, fragment and the last `/` do not
    matter), blocked_word_in_url (words between signs that are neither letter nor digit).
    """

    kind: Literal["url_list"] = "url_list"
    path: str | list[str] = []
    """Lists, as paths or URIs, plain or .gz, a line each: a domain (`example.com`; a hosts file will do), or a URL: what
    has a path (`example.com/page`)."""
    domains: list[str] = []
    """More domains."""
    urls: list[str] = []
    """More URLs."""
    words: list[str] = []
    """Words that no URL may have."""
    column: str = "url"
    """Key of the URL in a document's metadata; a dot goes into an object (`metadata.url`), and a plain key is looked for in
    `metadata` and `meta` too."""

    @model_validator(mode="after")
    def _has_a_list(self) -> UrlList:
        if not (self.path or self.domains or self.urls or self.words):
            raise ValueError("needs `path`, `domains`, `urls` or `words`")
        return self

    def placed(self, open: Any) -> UrlList:
        """This card with paths that do not depend on the worker's folder."""
        return self.model_copy(update={"path": [absolute(path) for path in self._paths()]})

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: blocked_domain, blocked_url, blocked_word_in_url."""
        lists = _lists(self._paths(), tuple(self.domains), tuple(self.urls), tuple(self.words))
        return verdicts([self._reason(meta, lists) for meta in table["meta"].to_pylist()])

    def _paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    def counts(self, table: pa.Table) -> dict[str, int]:
        """How many documents have no URL, which no list can block."""
        missing = sum(not self._url(meta) for meta in table["meta"].to_pylist())
        return {"without_url": missing} if missing else {}

    def _url(self, meta: str | None) -> str:
        url = value_of(meta, self.column)
        return url if isinstance(url, str) else ""

    def _reason(self, meta: str | None, lists: _Lists) -> str:
        url = self._url(meta)
        if not url:
            return ""
        plain = _plain(url)
        host = _host(plain)
        while host:
            if host in lists.domains:
                return "blocked_domain"
            host = host.partition(".")[2]
        if plain in lists.urls:
            return "blocked_url"
        return "blocked_word_in_url" if lists.words and not lists.words.isdisjoint(_WORDS.findall(url.lower())) else ""


class _Lists(NamedTuple):
    domains: frozenset[str]
    urls: frozenset[str]
    words: frozenset[str]


@lru_cache(maxsize=8)
def _lists(paths: tuple[str, ...], domains: tuple[str, ...], urls: tuple[str, ...], words: tuple[str, ...]) -> _Lists:
    """Read once in a process; a million domains are about 100 MB."""
    names, addresses = {_host(_plain(domain)) for domain in domains}, {_plain(url) for url in urls}
    for path in paths:
        for line in lines_of(path):
            hosts = _HOSTS.match(line)
            entry = _plain(hosts[1] if hosts else line)
            (addresses if "/" in entry or "?" in entry else names).add(entry)
    return _Lists(frozenset(names - {""}), frozenset(addresses - {""}), frozenset(word.lower() for word in words))


def _plain(url: str) -> str:
    """A URL without what does not distinguish pages; its host as `one_host` has it, its path as it is."""
    rest = _SCHEME.sub("", _BREAKS.sub("", url.strip())).partition("#")[0]
    host = re.split(r"[/?\\]", rest, maxsplit=1)[0]
    path = rest[len(host) :].rstrip("/")
    return one_host(host).removeprefix("*.") + path


def _host(plain: str) -> str:
    """The host of a plain URL, less its port."""
    host = re.split(r"[/?]", plain, maxsplit=1)[0]
    return f"{host.partition(']')[0]}]" if host.startswith("[") else host.partition(":")[0]
