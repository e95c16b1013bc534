import json

import pytest

from raylm.core.errors import ConfigError
from raylm.inference.speculation.draft_model import DraftModel, refuse_other_tokens


def folder(at, words, size):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocab = {word: place for place, word in enumerate(words)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocab, unk_token=words[0]))).save_pretrained(at)
    (at / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": size}))
    return str(at)


def test_tokens_must_be_those_of_the_model(tmp_path):
    large = folder(tmp_path / "large", ["<unk>", "a", "b", "c"], 4)
    draft = folder(tmp_path / "draft", ["<unk>", "a", "b", "c"], 4)
    found = DraftModel(model=draft, num_tokens=2).speculative_config(large)
    assert found == {"method": "draft_model", "model": draft, "num_speculative_tokens": 2}
    with pytest.raises(ConfigError, match="its vocabulary has 8 tokens, the model's 4"):
        refuse_other_tokens(large, folder(tmp_path / "padded", ["<unk>", "a", "b", "c"], 8))
    # as many tokens, two of them exchanged: vLLM itself would take it
    with pytest.raises(ConfigError, match=r"its token '[bc]' has the id [23], the model's [23]"):
        DraftModel(model=folder(tmp_path / "other", ["<unk>", "a", "c", "b"], 4)).speculative_config(large)
