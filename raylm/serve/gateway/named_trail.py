"""The events of one stream of /v1/messages or /v1/responses as they pass, and how another replica goes on when this one dies.

Their events tell no tokens: the replica's door does, in comments that no client sees. A replica that goes on is sent the same
request and these tokens; it tells the whole answer once more, and what the client has of that is left out here.
"""

from __future__ import annotations

from typing import Any

import orjson

from raylm.serve.engine.resume import COMMENT as TOKENS
from raylm.serve.engine.resume import MOST_TOKENS, ids_of
from raylm.serve.engine.spans import COMMENT as SPANS
from raylm.serve.engine.spans import Mark, marks_in
from raylm.serve.envelope import RESTARTING
from raylm.serve.gateway.trail import Resumption

PLACES = ("index", "output_index", "content_index", "summary_index")
"""Where in an answer an event belongs."""
TEXTS = ("text", "thinking", "partial_json")
"""What a delta of /v1/messages may say."""
LAST = ("message_stop", "response.completed", "response.incomplete", "response.failed", "error")
BEFORE_LAST = "message_delta"
"""Tells all but the end."""
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
Key = tuple[Any, ...]


class NamedTrail:
    """What has passed of one answer; as `Trail` for the routes of which vLLM tells tokens itself.

    Args:
        body: the request, as the client sent it.
    """

    def __init__(self, path: str, body: bytes) -> None:
        self._path, self._body = path, body
        self.stuck = False
        """A replica that was to go on with it does not, or says something else."""
        self.anew()

    def anew(self) -> None:
        """The client has nothing of the answer: another replica begins it."""
        self._rest = b""
        self._held: list[bytes] = []
        """Events before the first word, of which a client need not know where another replica says it."""
        self._begun = self._again = False
        self.ended = self.broken = self.failed = False
        """All of it came; the replica told within it that its engine died; it told another error."""
        self.marks: tuple[Mark, ...] = ()
        """Where the weights changed under it."""
        self._had: list[int] = []
        """Tokens that the replica which makes it was given."""
        self._ids: list[int] = []
        """Tokens that it told, those given too."""
        self._visible = self._deltas = 0
        """Tokens whose text the client has; and how many events that took."""
        self._usage = (0, 0)
        self._keys: set[Key] = set()
        self._said: dict[Key, str] = {}
        self._told: dict[Key, str] = {}
        self._last = ""
        self._names: dict[int, dict[str, Any]] = {}
        self._response: dict[str, Any] = {}
        self._number = 0

    @property
    def ids(self) -> None:
        """Copies of such requests are compared by nothing."""
        return

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer, so far."""
        return self._usage[0], max(self._usage[1], self._visible, self._deltas)

    @property
    def given(self) -> str:
        """Tokens that the replica which goes on with it is given; "" for one that begins."""
        return ",".join(map(str, self._had))

    def request(self) -> bytes:
        """The body for a replica."""
        return self._body

    def resume(self) -> Resumption | None:
        """How the answer goes on elsewhere, after what was seen; None where it cannot."""
        self.broken = False
        if self._last == BEFORE_LAST:
            return Resumption(self._path, None)
        # what was closed may have been all
        if self._last.endswith(("_stop", ".done")) or not 0 < self._visible <= MOST_TOKENS:
            return None
        # one that died before it had told again what it was given leaves what that was
        known = self._ids if len(self._ids) >= self._visible else self._had
        self._had, self._ids = known[: self._visible], []
        self._rest, self._again, self._told = b"", True, {}
        return Resumption(self._path, self._body)

    def last(self) -> bytes:
        """The events that are missing where all else has come."""
        self.ended = True
        return STOP

    def see(self, chunk: bytes) -> bytes:
        """What the client sees of a chunk."""
        data, end, self._rest = (self._rest + chunk).rpartition(b"\n\n")
        shown = [self._passed(event) for event in (data + end).split(b"\n\n")[:-1]]
        if not self._begun:
            self._held += shown
            return b""
        shown, self._held = [*self._held, *shown], []
        return b"".join(shown)

    def _passed(self, event: bytes) -> bytes:
        if self.broken or self.stuck:
            # vLLM ends a stream that failed as it ends any other: that end is not the answer's
            return b""
        if event.startswith(TOKENS):
            self._ids += ids_of(event)
            return b""
        if event.startswith(SPANS):
            done = len(self._had)
            self.marks += tuple(
                mark._replace(before=tuple((at, count + done) for at, count in mark.before)) for mark in marks_in(event + b"\n\n")
            )
            return b""
        name, data = _parts(event)
        if not name:
            return event + b"\n\n"
        if name == "error":
            return self._error(event, data)
        self.ended = name in LAST
        self._begun = self._begun or self.ended
        return self._followed(name, orjson.loads(data), event)

    def _error(self, event: bytes, data: bytes) -> bytes:
        if RESTARTING.encode() in data:
            self.broken = True
            return b""
        if self._again:
            # it does not take the continuation, for whatever reason
            self.stuck = True
            return b""
        self.failed = self.ended = self._begun = True
        read = orjson.loads(data)
        return _event("error", {**read, "sequence_number": self._number}) if "sequence_number" in read else event + b"\n\n"

    def _followed(self, name: str, read: dict[str, Any], event: bytes) -> bytes:
        """An event, or what of it the client does not have."""
        key: Key = (name, *(read.get(place) for place in PLACES))
        field, text = _text_of(read)
        if text is None:
            if self._again and key in self._keys and name != "ping":
                return b""
            self._keys.add(key)
        else:
            key = (*key, field)
            if self._again and (text := self._rest_of(key, text)) is None:
                return b""
            self._said[key] = self._said.get(key, "") + text
            if text:
                self._visible, self._begun = len(self._ids), True
        if name != "ping":
            self._last = name
        self._deltas += bool(text)
        self._count(read)
        if not self._again:
            self._remember(read)
            return event + b"\n\n"
        return _event(name, self._renamed(read, field, text))

    def _rest_of(self, key: Key, text: str) -> str | None:
        """What is new in a delta of a replica that tells all once more; None where nothing is."""
        had, told = self._said.get(key, ""), self._told.get(key, "") + text
        self._told[key] = told
        if not (had.startswith(told) or told.startswith(had)):
            self.stuck = True
            return None
        # what it told before this delta beyond `had` is in `had` by now
        return told[len(had) :] or None

    def _count(self, read: dict[str, Any]) -> None:
        places = (read, read.get("response"), read.get("message"))
        told: Any = next((each["usage"] for each in places if isinstance(each, dict) and each.get("usage")), {})
        self._usage = told.get("input_tokens") or self._usage[0], told.get("output_tokens") or self._usage[1]

    def _remember(self, read: dict[str, Any]) -> None:
        """Names that later events of the answer must have too."""
        if "sequence_number" in read:
            self._number = read["sequence_number"] + 1
        if isinstance(item := read.get("item"), dict) and "output_index" in read:
            self._names.setdefault(read["output_index"], _names_of(item))
        if not self._response and isinstance(response := read.get("response"), dict):
            self._response = {name: response.get(name) for name in ("id", "created_at")}

    def _renamed(self, read: dict[str, Any], field: str, text: str | None) -> dict[str, Any]:
        """An event of another replica in the names of the answer that it goes on with."""
        if text is not None:
            read = {**read, "delta": {**read["delta"], field: text} if field else text}
        if "sequence_number" in read:
            read, self._number = {**read, "sequence_number": self._number}, self._number + 1
        at = read.get("output_index")
        if at in self._names and "item_id" in read:
            read = {**read, "item_id": self._names[at].get("id")}
        if at is not None and isinstance(item := read.get("item"), dict):
            read = {**read, "item": {**item, **self._names.setdefault(at, _names_of(item))}}
        if isinstance(response := read.get("response"), dict):
            items = [{**item, **self._names.get(number, {})} for number, item in enumerate(response.get("output") or ())]
            read = {**read, "response": {**response, **self._response, "output": items}}
        return read


def _parts(event: bytes) -> tuple[str, bytes]:
    """Name and data of an event; "" for what has no name, or several lines of data."""
    first, _, second = event.partition(b"\n")
    if not first.startswith(b"event: ") or not second.startswith(b"data: ") or b"\n" in second:
        return "", b""
    return first[7:].decode("utf-8", "replace"), second[6:]


def _text_of(read: dict[str, Any]) -> tuple[str, str | None]:
    """Field within the delta ("" where that is the text itself) and the text that an event adds; None where it adds none."""
    delta = read.get("delta")
    if isinstance(delta, str):
        return "", delta
    if isinstance(delta, dict):
        return next(((field, delta[field]) for field in TEXTS if isinstance(delta.get(field), str)), ("", None))
    return "", None


def _names_of(item: dict[str, Any]) -> dict[str, Any]:
    """What an item of an answer is called."""
    return {name: item[name] for name in ("id", "call_id") if item.get(name)}


def _event(name: str, read: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(read) + b"\n\n"
