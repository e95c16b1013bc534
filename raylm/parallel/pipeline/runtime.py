"""Takes a rank's actions and a way to run a stage, leaves every micro batch passed through the stages of a pipeline.

receive hidden -> forward -> send hidden        receive gradient -> backward (or input, and later weight) -> send gradient

Shapes: B rows, T tokens, D width; each micro batch has its own B and T, which all ranks of a pipeline know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from raylm.core.errors import TrainingError
from raylm.parallel.pipeline.schedule import Action

Turn = Callable[[int, int], None]
Seam = tuple[torch.Tensor, torch.Tensor] | None
Forward = Callable[[int, int, torch.Tensor | None], tuple[torch.Tensor, Seam]]


class PipelineRuntime:
    """One run over all micro batches of a step.

    Args:
        place: rank of each stage within `group`.
        group: the ranks of this pipeline.
        rank: this one of them.
        turn: called with stage and micro batch before each of their passes.
        forward: called with stage, micro batch and what came from the stage before (None on the first); on the last stage it
            returns this micro batch's loss, elsewhere [B, T, D]. What a run without gradients returns last is the caller's.
            A seam is a tensor and the leaf that the rest of the pass took for it: halves begin there.
        shapes: [B, T, D] of each micro batch.
        dtype: of what goes from stage to stage.
        weights: trained parameters, None for a run without gradients.
    """

    def __init__(
        self,
        place: list[int],
        group: Any,
        rank: int,
        turn: Turn,
        forward: Forward,
        shapes: Sequence[tuple[int, int, int]],
        dtype: torch.dtype,
        device: torch.device,
        weights: list[torch.nn.Parameter] | None,
    ) -> None:
        self._place, self._group, self._rank, self._turn, self._forward_of = place, group, rank, turn, forward
        self._shapes, self._dtype, self._device, self._weights = shapes, dtype, device, weights
        # by stage and micro batch: what came in, what waits for it, both ends of a forward pass, what `weight` still needs
        self._came: dict[tuple[str, int, int], torch.Tensor] = {}
        self._coming: dict[tuple[str, int, int], Any] = {}
        self._passed: dict[tuple[int, int], tuple[torch.Tensor | None, torch.Tensor, Seam]] = {}
        self._half: dict[tuple[int, int], Any] = {}
        self._going: deque[tuple[Any, torch.Tensor, str]] = deque()

    def run(self, actions: Sequence[Action]) -> None:
        """Do `actions` in order. Raises TrainingError that names what did not come when a neighbour is gone or too late."""
        for what, stage, micro in actions:
            if what.startswith("send"):
                self._send(what.removeprefix("send_"), stage, micro)
            elif what.startswith("receive"):
                self._receive(what.removeprefix("receive_"), stage, micro)
            else:
                self._turn(stage, micro)
                getattr(self, f"_{what}")(stage, micro)
        while self._going:
            work, _, what = self._going.popleft()
            self._waited(work, what)

    def _forward(self, stage: int, micro: int) -> None:
        hidden = None
        if stage > 0:
            hidden = self._take("hidden", stage, micro)
            hidden.requires_grad_(self._weights is not None)
        made, seam = self._forward_of(stage, micro, hidden)
        if stage == len(self._place) - 1:
            if self._weights is not None:
                self._passed[stage, micro] = hidden, made, seam
            return
        if made.shape != self._shapes[micro] or made.dtype != self._dtype:
            raise TrainingError(
                f"stage {stage} made {tuple(made.shape)} {made.dtype}, the next takes {self._shapes[micro]} {self._dtype}"
            )
        if self._weights is not None:
            self._passed[stage, micro] = hidden, made, None
        self._give("hidden", stage, stage + 1, micro, made.detach())

    def _backward(self, stage: int, micro: int) -> None:
        hidden, made, _ = self._passed.pop((stage, micro))
        gradient = self._gradient(stage, micro)
        if made.requires_grad:
            torch.autograd.backward(made, gradient)
        if hidden is not None:
            self._give("gradient", stage, stage - 1, micro, _or_zeros(hidden.grad, hidden))

    def _input(self, stage: int, micro: int) -> None:
        hidden, made, seam = self._passed.pop((stage, micro))
        gradient = self._gradient(stage, micro)
        if seam is not None:
            torch.autograd.backward(made, gradient)
            made, gradient = seam[0], seam[1].grad
        if hidden is None:
            # nobody waits for the first stage's gradient: all of its work can fill gaps
            self._half[stage, micro] = made, gradient
            return
        given = None if gradient is None else [gradient]
        (found, *_), groups = stage_backward_input([made], given, [hidden], iter(self._weights or ()))
        self._half[stage, micro] = groups
        self._give("gradient", stage, stage - 1, micro, _or_zeros(found, hidden))

    def _weight(self, stage: int, micro: int) -> None:
        half = self._half.pop((stage, micro))
        if stage > 0:
            stage_backward_weight(iter(self._weights or ()), half)
        elif half[0].requires_grad:
            torch.autograd.backward(*half)

    def _gradient(self, stage: int, micro: int) -> torch.Tensor | None:
        return None if stage == len(self._place) - 1 else self._take("gradient", stage, micro)

    def _give(self, kind: str, stage: int, to: int, micro: int, values: torch.Tensor) -> None:
        """Hand `values` to a stage of this rank, or keep them for the send that follows."""
        if self._place[to] == self._rank:
            self._came[kind, to, micro] = values
        else:
            self._came[f"own {kind}", stage, micro] = values

    def _take(self, kind: str, stage: int, micro: int) -> torch.Tensor:
        key = kind, stage, micro
        if key in self._coming:
            self._waited(self._coming.pop(key), f"stage {stage} waited for the {kind} of micro batch {micro}")
        return self._came.pop(key)

    def _send(self, kind: str, stage: int, micro: int) -> None:
        to = self._place[stage + 1 if kind == "hidden" else stage - 1]
        values = self._came.pop((f"own {kind}", stage, micro)).contiguous()
        work = dist.isend(values, group=self._group, group_dst=to)
        self._going.append(
            (work, values, f"stage {stage} could not send the {kind} of micro batch {micro} to pipeline rank {to}")
        )
        while self._going and self._going[0][0].is_completed():
            self._going.popleft()

    def _receive(self, kind: str, stage: int, micro: int) -> None:
        source = self._place[stage - 1 if kind == "hidden" else stage + 1]
        values = torch.empty(self._shapes[micro], dtype=self._dtype, device=self._device)
        self._came[kind, stage, micro] = values
        self._coming[kind, stage, micro] = dist.irecv(values, group=self._group, group_src=source)

    def _waited(self, work: Any, what: str) -> None:
        try:
            # the group's own deadline ends this wait
            work.wait()
        except RuntimeError as cause:
            raise TrainingError(what, next="look at the rank that holds the neighbouring stage: it ended or hangs") from cause


def _or_zeros(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
