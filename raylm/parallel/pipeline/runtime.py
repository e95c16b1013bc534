"""Runs a pipeline schedule on one rank: forward and backward passes of its stages, sends and receives.

receive hidden -> forward -> send hidden        receive gradient -> backward (or input, and later weight) -> send gradient

Shapes: B rows, T tokens, D width; each micro batch has its own B and T, which all ranks of a pipeline know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from raylm.core.errors import TrainingError
from raylm.model.torch_private import backward_of_input, backward_of_weight
from raylm.parallel.pipeline.schedule import Action

SelectStage = Callable[[int, int], None]
Seam = tuple[torch.Tensor, torch.Tensor] | None
Forward = Callable[[int, int, torch.Tensor | None], tuple[torch.Tensor, Seam]]


class PipelineRuntime:
    """One run over all micro batches of a step.

    Args:
        place: rank of each stage within `group`.
        group: the ranks of this pipeline.
        rank: this one of them.
        select_stage: called with stage and micro batch before each of their passes.
        forward: called with stage, micro batch and the hidden states of the stage before (None on the first); on the last stage
            it returns this micro batch's loss, elsewhere [B, T, D]. A run without gradients ignores what the last stage returns.
            A seam is a tensor and the leaf that replaced it for the rest of the pass: a split backward pass begins there.
        shapes: [B, T, D] of each micro batch.
        dtype: of what goes from stage to stage.
        weights: trained parameters, None for a run without gradients.
    """

    def __init__(
        self,
        place: list[int],
        group: Any,
        rank: int,
        select_stage: SelectStage,
        forward: Forward,
        shapes: Sequence[tuple[int, int, int]],
        dtype: torch.dtype,
        device: torch.device,
        weights: list[torch.nn.Parameter] | None,
    ) -> None:
        self._place, self._group, self._rank, self._select_stage, self._forward_of = place, group, rank, select_stage, forward
        self._shapes, self._dtype, self._device, self._weights = shapes, dtype, device, weights
        # by stage and micro batch: tensors received or to be sent, pending receives, inputs and outputs of forward passes,
        # what the `weight` half of a backward pass needs; and pending sends
        self._tensors: dict[tuple[str, int, int], torch.Tensor] = {}
        self._receives: dict[tuple[str, int, int], Any] = {}
        self._activations: dict[tuple[int, int], tuple[torch.Tensor | None, torch.Tensor, Seam]] = {}
        self._weight_inputs: dict[tuple[int, int], Any] = {}
        self._sends: deque[tuple[Any, torch.Tensor, str]] = deque()

    def run(self, actions: Sequence[Action]) -> None:
        """Do `actions` in order. Raises TrainingError that names the missing tensor when a neighbour is gone or too late."""
        for what, stage, micro in actions:
            if what.startswith("send"):
                self._send(what.removeprefix("send_"), stage, micro)
            elif what.startswith("receive"):
                self._receive(what.removeprefix("receive_"), stage, micro)
            else:
                self._select_stage(stage, micro)
                getattr(self, f"_{what}")(stage, micro)
        while self._sends:
            work, _, what = self._sends.popleft()
            self._wait(work, what)

    def _forward(self, stage: int, micro: int) -> None:
        hidden = None
        if stage > 0:
            hidden = self._take("hidden", stage, micro)
            hidden.requires_grad_(self._weights is not None)
        output, seam = self._forward_of(stage, micro, hidden)
        if stage == len(self._place) - 1:
            if self._weights is not None:
                self._activations[stage, micro] = hidden, output, seam
            return
        if output.shape != self._shapes[micro] or output.dtype != self._dtype:
            raise TrainingError(
                f"stage {stage} made {tuple(output.shape)} {output.dtype}, the next takes {self._shapes[micro]} {self._dtype}"
            )
        if self._weights is not None:
            self._activations[stage, micro] = hidden, output, None
        self._put("hidden", stage, stage + 1, micro, output.detach())

    def _backward(self, stage: int, micro: int) -> None:
        hidden, output, _ = self._activations.pop((stage, micro))
        gradient = self._gradient(stage, micro)
        if output.requires_grad:
            torch.autograd.backward(output, gradient)
        if hidden is not None:
            self._put("gradient", stage, stage - 1, micro, _or_zeros(hidden.grad, hidden))

    def _input(self, stage: int, micro: int) -> None:
        hidden, output, seam = self._activations.pop((stage, micro))
        gradient = self._gradient(stage, micro)
        if seam is not None:
            torch.autograd.backward(output, gradient)
            output, gradient = seam[0], seam[1].grad
        if hidden is None:
            # no stage waits for the first stage's gradient: all of its backward pass can fill gaps
            self._weight_inputs[stage, micro] = output, gradient
            return
        output_gradients = None if gradient is None else [gradient]
        (input_gradient, *_), groups = backward_of_input([output], output_gradients, [hidden], iter(self._weights or ()))
        self._weight_inputs[stage, micro] = groups
        self._put("gradient", stage, stage - 1, micro, _or_zeros(input_gradient, hidden))

    def _weight(self, stage: int, micro: int) -> None:
        pending = self._weight_inputs.pop((stage, micro))
        if stage > 0:
            backward_of_weight(iter(self._weights or ()), pending)
        elif pending[0].requires_grad:
            torch.autograd.backward(*pending)

    def _gradient(self, stage: int, micro: int) -> torch.Tensor | None:
        return None if stage == len(self._place) - 1 else self._take("gradient", stage, micro)

    def _put(self, kind: str, stage: int, to: int, micro: int, values: torch.Tensor) -> None:
        """Store `values` for a stage of this rank, or for the send that follows."""
        if self._place[to] == self._rank:
            self._tensors[kind, to, micro] = values
        else:
            self._tensors[f"own {kind}", stage, micro] = values

    def _take(self, kind: str, stage: int, micro: int) -> torch.Tensor:
        key = kind, stage, micro
        if key in self._receives:
            self._wait(self._receives.pop(key), f"stage {stage} waited for the {kind} of micro batch {micro}")
        return self._tensors.pop(key)

    def _send(self, kind: str, stage: int, micro: int) -> None:
        to = self._place[stage + 1 if kind == "hidden" else stage - 1]
        values = self._tensors.pop((f"own {kind}", stage, micro)).contiguous()
        work = dist.isend(values, group=self._group, group_dst=to)
        self._sends.append(
            (work, values, f"stage {stage} could not send the {kind} of micro batch {micro} to pipeline rank {to}")
        )
        while self._sends and self._sends[0][0].is_completed():
            self._sends.popleft()

    def _receive(self, kind: str, stage: int, micro: int) -> None:
        source = self._place[stage - 1 if kind == "hidden" else stage + 1]
        values = torch.empty(self._shapes[micro], dtype=self._dtype, device=self._device)
        self._tensors[kind, stage, micro] = values
        self._receives[kind, stage, micro] = dist.irecv(values, group=self._group, group_src=source)

    def _wait(self, work: Any, what: str) -> None:
        try:
            # the group's own deadline ends this wait
            work.wait()
        except RuntimeError as cause:
            raise TrainingError(what, next="look at the rank that holds the neighbouring stage: it ended or hangs") from cause


def _or_zeros(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
