"""Names of other frameworks, and keys that are said in their place."""

from __future__ import annotations

import re

import pytest

from raylm.model.adapters.lora import Lora
from raylm.rl.config import RL
from raylm.train.config import Train


@pytest.mark.parametrize("cls", [Train, RL, Lora])
def test_what_stands_in_for_a_name_of_another_framework_is_a_key(cls):
    for each in cls.__mro__:
        for name, here in each.__dict__.get("known_as", {}).items():
            assert name not in cls.model_fields
            first = re.split(r"[ ,:]", here)[0]
            assert first in cls.model_fields or here.startswith(("form ", "refused, ")), (name, here)


def test_a_name_of_trl_is_refused_with_the_key_for_it():
    table = {"stage": "train", "rows": "rows", "model": "base", "steps": 1, "batch": 1}
    with pytest.raises(ValueError, match=r"unknown key\. Here it is optimizer = \{lr = \.\.\.\}\."):
        Train.model_validate({**table, "learning_rate": 1e-5})
