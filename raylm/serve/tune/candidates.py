"""Engine settings worth a try on a machine, the likeliest to help first."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.inference.config import EngineSettings

PLAIN = "plain"
"""The engine as it is without any settings: what all others are compared with."""
COMBINED = "combined"


class Candidate(NamedTuple):
    """Settings by a name; `model` is another checkpoint than the one that is tuned, "" where it is not."""

    name: str
    table: dict[str, Any]
    """As `engine = {...}` in a serve table."""
    model: str = ""

    @property
    def settings(self) -> EngineSettings:
        return EngineSettings(**self.table)


def candidates(gpus: int, draft: str = "", also: dict[str, str] | None = None, compiles: bool = False) -> list[Candidate]:
    """All of them, in the order in which they are tried.

    Args:
        gpus: of this machine, that one engine may take; 0 for a CPU.
        draft: a draft model; "" for none.
        also: other checkpoints of the same model by name, quantized ones say.
        compiles: try torch.compile where it is not the default, too: its start takes minutes.
    """

    def ngram(num_tokens: int, most: int) -> dict[str, Any]:
        return {"speculation": {"kind": "ngram", "num_tokens": num_tokens, "min_lookup": 2, "max_lookup": most}}

    found = [Candidate(PLAIN, {})]
    found += [Candidate(name, {}, model) for name, model in (also or {}).items()]
    if draft:
        for count in (2, 4):
            speculation = {"kind": "draft_model", "model": draft, "num_tokens": count}
            found.append(Candidate(f"draft-{count}", {"speculation": speculation}))
    found += [Candidate("ngram-3", ngram(3, 3)), Candidate("ngram-6", ngram(6, 4))]
    found.append(Candidate("no-prefix-cache", {"enable_prefix_caching": False}))
    if gpus:
        found += [
            Candidate("no-chunks", {"enable_chunked_prefill": False}),
            Candidate("chunks-2048", {"enable_chunked_prefill": True, "max_num_batched_tokens": 2048}),
            Candidate("chunks-16384", {"enable_chunked_prefill": True, "max_num_batched_tokens": 16384}),
        ]
    if gpus > 1:
        found.append(Candidate(f"tensor-{gpus}", {"tensor_parallel": gpus}))
    found.append(Candidate("kv-fp8", {"kv_cache_dtype": "fp8"}))
    if not gpus:
        found.append(Candidate("seqs-64", {"max_num_seqs": 64}))
    if gpus or compiles:
        found.append(Candidate("eager" if gpus else "compile", {"compile": not gpus}))
    return found


def combined(helped: list[tuple[Candidate, float]]) -> Candidate | None:
    """All settings that helped by themselves together, where there are two or more; of two that set the same key the one that
    helped more.

    Args:
        helped: candidates, and how many times faster they were.
    """
    table: dict[str, Any] = {}
    for candidate, _ in sorted(helped, key=lambda one: -one[1]):
        table = candidate.table | table if not candidate.model else table
    parts = [candidate for candidate, _ in helped if not candidate.model]
    return Candidate(COMBINED, table) if len(parts) > 1 and all(table != one.table for one in parts) else None
