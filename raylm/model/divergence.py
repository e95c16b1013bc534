"""Divergences between a teacher's and a student's distribution over the same classes: single tokens, and all others as one.

Classes that are put together can only lose divergence: what is found over the teacher's likeliest tokens and one rest is a lower
bound of that over the whole vocabulary, and equal where nothing is left over.

Shapes: any leading ones, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch

Kind = Literal["forward", "reverse", "jsd"]


def divergence(student_K: torch.Tensor, teacher_K: torch.Tensor, kind: Kind, beta: float = 0.5) -> torch.Tensor:
    """In nats, with a gradient of the student. Classes that are empty (-inf) to either of them are passed over.

    forward   KL(teacher || student): the student covers what the teacher may say
    reverse   KL(student || teacher): the student keeps to what the teacher would say
    jsd       beta * KL(teacher || m) + (1 - beta) * KL(student || m), m = beta * teacher + (1 - beta) * student: the generalised
              Jensen-Shannon divergence of GKD (https://arxiv.org/abs/2306.13649 section 2)

    Args:
        student_K, teacher_K: log-probabilities.
        beta: weight of the teacher in the mixture, 0 < beta < 1; over its limits (1 - beta) and beta, jsd goes to the two others.
    """
    known_K = student_K.isfinite() & teacher_K.isfinite()
    # before anything is computed: the gradient of what is left out must be 0, and not 0 times infinity
    student_K, teacher_K = (each.where(known_K, 0.0) for each in (student_K, teacher_K))
    if kind == "forward":
        each_K = teacher_K.exp() * (teacher_K - student_K)
    elif kind == "reverse":
        each_K = student_K.exp() * (student_K - teacher_K)
    else:
        weights = torch.tensor([1.0 - beta, beta], dtype=student_K.dtype, device=student_K.device).log()
        mixed_K = torch.logaddexp(student_K + weights[0], teacher_K + weights[1])
        each_K = beta * teacher_K.exp() * (teacher_K - mixed_K) + (1.0 - beta) * student_K.exp() * (student_K - mixed_K)
    return each_K.where(known_K, 0.0).sum(-1)
