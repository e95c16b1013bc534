"""Which rows of one tokenizer a model of another may read."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from raylm.model.same_tokens import other_tokens
from tests.model.tiny import tiny_tokenizer

ROWS = [{"tokens": tiny_tokenizer(300).encode("A class defines a type of object.")}, {"prompt": [1, 3], "chosen": [70, 71]}]


def test_the_same_rules_are_the_same_tokens():
    assert other_tokens(ROWS, tiny_tokenizer(300), tiny_tokenizer(300)) == ""


def test_tokens_that_the_rows_do_not_use_are_no_difference():
    longer = tiny_tokenizer(300)
    longer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    assert other_tokens(ROWS, tiny_tokenizer(300), longer) == other_tokens(ROWS, longer, tiny_tokenizer(300)) == ""
    used = [{"tokens": [70, len(longer) - 1]}]
    assert "'<|tool|>', to the model None" in other_tokens(used, longer, tiny_tokenizer(300))


def test_more_merges_cut_the_same_text_otherwise():
    assert "cuts" in other_tokens(ROWS, tiny_tokenizer(300), tiny_tokenizer(400))


@pytest.mark.parametrize("change", ["ids", "normalizer"])
def test_the_same_size_is_not_the_same_tokenizer(change):
    core = tiny_tokenizer(300).backend_tokenizer
    rules = json.loads(core.to_str())
    if change == "ids":
        names = {index: name for name, index in rules["model"]["vocab"].items()}
        rules["model"]["vocab"] |= {names[70]: 71, names[71]: 70}
    other = Tokenizer.from_str(json.dumps(rules))
    if change == "normalizer":
        other.normalizer = normalizers.Lowercase()
    why = other_tokens(ROWS, tiny_tokenizer(300), PreTrainedTokenizerFast(tokenizer_object=other))
    assert why.startswith("token 70 of the rows is" if change == "ids" else "the model's tokenizer cuts")
