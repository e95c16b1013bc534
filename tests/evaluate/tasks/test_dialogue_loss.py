"""Dialogues: the loss is transformers' own on what the assistant says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.dialogue_loss import DialogueLoss
from tests.model.tiny import tiny_checkpoint, tiny_model

ROWS = [
    {"tokens": np.array([1, 3, 40, 41, 4, 50, 2]), "mask": np.array([0, 0, 0, 0, 0, 1, 1])},
    {"tokens": np.array([1, 3, 42, 4, 51, 52, 53, 2]), "mask": np.array([0, 0, 0, 0, 1, 1, 1, 1])},
]


def test_the_mean_over_all_assistant_tokens(tmp_path):
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    model = tiny_model(vocab=300, layers=1).eval()
    total = 0.0
    with torch.no_grad():
        for row in ROWS:
            tokens, mask = torch.tensor(row["tokens"])[None], torch.tensor(row["mask"])[None]
            total += float(model(tokens, labels=tokens.masked_fill(mask == 0, -100)).loss) * int(mask.sum())
    found = means(DialogueLoss(rows="rows").grade(LM(str(tmp_path)), ROWS))
    assert found == {"dialogue_loss": pytest.approx(total / 6, abs=1e-5)}
