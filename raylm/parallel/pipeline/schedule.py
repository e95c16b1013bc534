"""Pipeline schedules: the order in which each rank computes, sends and receives.

    1f1b          one stage per rank; as soon as a backward pass can run it does, so few activations wait
    interleaved   `virtual` stages per rank, stage s on rank s % ranks: the bubble shrinks by `virtual`
    zero_bubble   two stages per rank in the shape of a V; gradients of weights wait and fill the gaps

Sources: https://arxiv.org/abs/2104.04473 (1f1b, interleaved), https://arxiv.org/abs/2401.10241 (zero bubble, its ZB-V).
Unlike torch.distributed.pipelining, any number of micro batches will do. Simulated in units of one forward pass of a stage.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Literal, NamedTuple

Schedule = Literal["1f1b", "interleaved", "zero_bubble"]
What = Literal["forward", "backward", "input", "weight", "send_hidden", "receive_hidden", "send_gradient", "receive_gradient"]
# `input` and `weight` are the two halves of `backward`
COST = {"forward": 1, "backward": 2, "input": 1, "weight": 1}


class Action(NamedTuple):
    """One action of a rank; `stage` is the one that computes, sends or receives."""

    what: What
    stage: int
    micro: int


class PipelineSchedule(NamedTuple):
    """`actions` by rank, and when the last of them ends."""

    actions: tuple[tuple[Action, ...], ...]
    span: int


def place(schedule: Schedule, ranks: int, virtual: int = 2) -> list[int]:
    """The rank of each stage."""
    if schedule == "1f1b":
        return list(range(ranks))
    if schedule == "interleaved":
        return [stage % ranks for stage in range(ranks * virtual)]
    return [*range(ranks), *reversed(range(ranks))]


@lru_cache(maxsize=64)
def pipeline_schedule(schedule: Schedule, ranks: int, micros: int, virtual: int = 2, *, learn: bool = True) -> PipelineSchedule:
    """The actions of each rank, sends and receives included.

    A receive is placed where its sender sends, in one order for all ranks: no deadlock where a send waits for its receive.

    Args:
        learn: with backward passes.
    """
    at = place(schedule, ranks, virtual)
    if not learn:
        orders = [[Action("forward", s, m) for m in range(micros) for s in range(len(at)) if at[s] == r] for r in range(ranks)]
    elif schedule == "zero_bubble":
        orders = _zero_bubble(ranks, micros)
    else:
        orders = [_one_f_one_b(ranks, micros, len(at) // ranks, rank) for rank in range(ranks)]
    return _with_communication(orders, at)


def _one_f_one_b(ranks: int, micros: int, virtual: int, rank: int) -> list[Action]:
    """1F1B, with `virtual` > 1 interleaved: micro batches pass in groups through all stages of a rank.

    Groups hold `ranks` micro batches; the remainder is spread among them, as a short last group would stall.
    """
    count = max(1, micros // ranks)
    groups = [range(micros * g // count, micros * (g + 1) // count) for g in range(count)]
    stages = [part * ranks + rank for part in range(virtual)]
    forwards = [Action("forward", s, m) for group in groups for s in stages for m in group]
    backwards = [Action("backward", s, m) for group in groups for s in reversed(stages) for m in group]
    ahead = ranks - rank - 1 if virtual == 1 else 2 * (ranks - rank - 1) + (virtual - 1) * max(map(len, groups))
    ahead = min(ahead, len(forwards))
    order = forwards[:ahead]
    for pair in zip(forwards[ahead:], backwards, strict=False):
        order += pair
    return order + backwards[len(forwards) - ahead :]


def _zero_bubble(ranks: int, micros: int) -> list[list[Action]]:
    """Greedy in time: gradients of inputs first, then forward passes (of the later stage first), then gradients of weights.

    A rank holds activations of at most 2 * ranks + 2 passes, one micro batch more than the paper's ZB-V, which makes up for
    being greedy.
    """
    num_stages, room = 2 * ranks, 2 * ranks + 2
    ended: dict[tuple[str, int, int], int] = {}
    begun = {what: [0] * num_stages for what in ("forward", "input")}
    waiting: list[deque[Action]] = [deque() for _ in range(ranks)]
    held = [0] * ranks
    orders: list[list[Action]] = [[] for _ in range(ranks)]

    def ready(what: str, stage: int, now: int) -> bool:
        micro = begun[what][stage]
        needs = [("forward", stage - 1)] if what == "forward" else [("forward", stage), ("input", stage + 1)]
        return micro < micros and all(ended.get((need, of, micro), now + 1) <= now for need, of in needs if 0 <= of < num_stages)

    def pick(rank: int, now: int) -> Action | None:
        late, early = num_stages - 1 - rank, rank
        # what went into the early stage will need room in the late one
        owed = begun["forward"][early] - begun["forward"][late]
        fits = {late: held[rank] < room, early: held[rank] + owed + 2 <= room}
        for what in ("input", "forward"):
            for stage in (late, early):
                if ready(what, stage, now) and (what == "input" or fits[stage]):
                    return Action(what, stage, begun[what][stage])  # type: ignore[arg-type]
        return waiting[rank].popleft() if waiting[rank] else None

    now, left = 0, 3 * num_stages * micros
    while left:
        picked = [(rank, action) for rank in range(ranks) if (action := pick(rank, now))]
        for rank, action in picked:
            ended[action] = now + 1
            orders[rank].append(action)
            if action.what == "weight":
                held[rank] -= 1
                continue
            begun[action.what][action.stage] += 1
            if action.what == "forward":
                held[rank] += 1
            else:
                waiting[rank].append(action._replace(what="weight"))
        now, left = now + 1, left - len(picked)
    return orders


def _with_communication(orders: list[list[Action]], at: list[int]) -> PipelineSchedule:
    """The same orders with sends and receives inserted, by time."""
    todo = [deque(order) for order in orders]
    ordered: list[list[Action]] = [[] for _ in orders]
    clock = [0] * len(orders)
    ended: dict[tuple[str, int, int], int] = {}

    def start(rank: int) -> int | None:
        what, stage, micro = todo[rank][0]
        needs = [("forward", stage - 1)] if what == "forward" else [] if what == "weight" else [("gradient", stage + 1)]
        times = [ended.get((need, of, micro)) for need, of in needs if 0 <= of < len(at)]
        return None if None in times else max([clock[rank], *times])  # type: ignore[type-var]

    while any(todo):
        able = [(begin, rank) for rank in range(len(orders)) if todo[rank] and (begin := start(rank)) is not None]
        begin, rank = min(able)
        action = todo[rank].popleft()
        clock[rank] = begin + COST[action.what]
        ordered[rank].append(action)
        if action.what == "weight":
            continue
        kind, to = ("hidden", action.stage + 1) if action.what == "forward" else ("gradient", action.stage - 1)
        ended[("forward" if kind == "hidden" else "gradient", action.stage, action.micro)] = clock[rank]
        if 0 <= to < len(at) and at[to] != rank:
            ordered[rank].append(Action(f"send_{kind}", action.stage, action.micro))  # type: ignore[arg-type]
            ordered[at[to]].append(Action(f"receive_{kind}", to, action.micro))  # type: ignore[arg-type]
    return PipelineSchedule(tuple(map(tuple, ordered)), max(clock))
