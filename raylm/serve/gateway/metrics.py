"""What a gateway counts, and pages of replicas as one page: Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from raylm.serve.auth import MODEL
from raylm.serve.directory import Replica

FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets of the seconds to the first byte of an answer."""
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{.*\})?( .+)$")
_SUFFIXES = ("_bucket", "_sum", "_count", "_created", "_total")


class Counters:
    """Of one gateway, since its start."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self._tokens: dict[tuple[str, str], int] = defaultdict(int)
        self._first: dict[str, list[int]] = defaultdict(lambda: [0] * (len(FIRST_S) + 1))
        self._first_sum: dict[str, float] = defaultdict(float)
        self._failures: dict[str, int] = defaultdict(int)
        self.resumed = 0
        """Streams that went on at another replica."""

    def ended(self, model: str, path: str, status: int, tokens: tuple[int, int], first_s: float) -> None:
        """A request has ended."""
        # clients choose the name behind it: one row for all of them
        path = MODEL + "{model}" if path.startswith(MODEL) else path
        self._requests[model, path, status] += 1
        if any(tokens):
            self._tokens[model, "prompt"] += tokens[0]
            self._tokens[model, "completion"] += tokens[1]
            self._first[model][next((at for at, edge in enumerate(FIRST_S) if first_s <= edge), len(FIRST_S))] += 1
            self._first_sum[model] += first_s

    def failed(self, replica: str) -> None:
        """A replica failed a request."""
        self._failures[replica] += 1

    def page(self, held: Mapping[str, int], replicas: Iterable[tuple[Replica, int]]) -> str:
        """All of them, with the replicas' loads.

        Args:
            held: requests that wait, by model.
            replicas: with the requests that this gateway has under way at each.
        """
        lines = [
            *_family("raylm_gateway_requests_total", "counter", "Requests that have ended.", self._request_lines()),
            *_family("raylm_gateway_tokens_total", "counter", "Tokens of prompts and answers.", self._token_lines()),
            *_family(
                "raylm_gateway_first_byte_seconds",
                "histogram",
                "Seconds from a request's admission to the first byte of its answer.",
                self._first_lines(),
            ),
            *_family(
                "raylm_gateway_replica_failures_total",
                "counter",
                "Requests that a replica failed.",
                ((_labels(replica=name), count) for name, count in self._failures.items()),
            ),
            *_family("raylm_gateway_resumed_total", "counter", "Streams that went on at another replica.", [("", self.resumed)]),
            *_family(
                "raylm_gateway_held",
                "gauge",
                "Requests that wait for a replica.",
                ((_labels(model=name), count) for name, count in held.items()),
            ),
            *_replica_lines(list(replicas)),
        ]
        return "\n".join(lines) + "\n"

    def _request_lines(self) -> Iterable[tuple[str, float]]:
        for (model, path, status), count in self._requests.items():
            yield _labels(model=model, path=path, status=status), count

    def _token_lines(self) -> Iterable[tuple[str, float]]:
        for (model, kind), count in self._tokens.items():
            yield _labels(model=model, kind=kind), count

    def _first_lines(self) -> Iterable[tuple[str, float]]:
        for model, buckets in self._first.items():
            below = 0
            for edge, count in zip((*map(str, FIRST_S), "+Inf"), buckets, strict=True):
                below += count
                yield "_bucket" + _labels(model=model, le=edge), below
            yield "_sum" + _labels(model=model), round(self._first_sum[model], 6)
            yield "_count" + _labels(model=model), below


def _replica_lines(replicas: list[tuple[Replica, int]]) -> list[str]:
    said = {row.address.replica: _labels(model=row.address.model, replica=row.address.replica) for row, _ in replicas}
    state = ((_labels(model=r.address.model, replica=r.address.replica, state=r.state), 1) for r, _ in replicas)
    lines = _family("raylm_replica_state", "gauge", "State of each replica.", state)
    under_way = ((said[row.address.replica], count) for row, count in replicas)
    lines += _family("raylm_gateway_under_way", "gauge", "Requests of this gateway at each replica.", under_way)
    for name, text in (
        ("running", "Requests that its engine works on."),
        ("waiting", "Requests that wait in its engine."),
        ("queued_tokens", "Tokens of prompts not read yet."),
        ("kv_use", "Part of the key-value cache in use."),
        ("ttft_s", "Seconds to the first token, of late."),
        ("tokens_s", "Tokens per second, of late."),
    ):
        # what a replica has not told is left out: unknown is not zero
        told = ((said[row.address.replica], value) for row, _ in replicas if (value := getattr(row.load, name)) is not None)
        lines += _family(f"raylm_replica_{name}", "gauge", text, told)
    return lines


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{labels} {value}" for labels, value in samples)]


def _labels(**values: object) -> str:
    told = (f'{name}="{_escaped(str(value))}"' for name, value in values.items())
    return "{" + ",".join(told) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def merged(pages: Mapping[str, str]) -> str:
    """The pages of several replicas as one: each sample with the replica's name, families told once.

    Args:
        pages: by name of the replica.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for replica, page in pages.items():
        for line in page.splitlines():
            if line.startswith("#"):
                parts = line.split(" ", 3)
                said = families.setdefault(parts[2], ([], []))[0] if len(parts) > 2 else []
                if line not in said:
                    said.append(line)
            elif (found := _SAMPLE.match(line)) is not None:
                name, labels = found[1], (found[2] or "{}")[1:-1]
                own = ",".join(part for part in (labels, f'replica="{_escaped(replica)}"') if part)
                families.setdefault(_of_family(name, families), ([], []))[1].append(f"{name}{{{own}}}{found[3]}")
    return "\n".join(line for said, samples in families.values() for line in (*said, *samples)) + "\n" if families else ""


def _of_family(name: str, families: Mapping[str, object]) -> str:
    """The family of a sample: its own name, or that less a suffix of histograms and counters."""
    bare = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
    return bare if name not in families and bare in families else name
