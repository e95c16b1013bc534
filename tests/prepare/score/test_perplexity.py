"""Perplexity under the tiny model: against one text at a time by hand; cut texts, empty texts, tokenizers without marks."""

import math
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raylm.core.artifact import Checkpoint, Manifest
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.prepare.score.perplexity import Perplexity
from raylm.prepare.score.weights import address, batches
from tests.model.tiny import tiny_checkpoint

TEXTS = ["The quick brown fox.", "", "x", "Zwölf Boxkämpfer jagen Viktor — 日本語", "words and words " * 30, "a\nb\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def table_of(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


@lru_cache
def loaded(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()


def by_hand(folder, text, max_tokens, starts):
    """(bits per byte, perplexity), one token after the other."""
    tokenizer, model = loaded(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = ([tokenizer.bos_token_id] if starts else []) + ids
    row = row[:max_tokens]
    nats = 0.0
    # of a short text every token is foreseen by a call of its own, of a longer one by one call for all
    with torch.no_grad():
        whole = model(torch.tensor([row])).logits[0].double()
        for at in range(1, len(row)):
            logits = model(torch.tensor([row[:at]])).logits[0, -1].double() if len(row) < 12 else whole[at - 1]
            nats -= (logits[row[at]] - logits.logsumexp(0)).item()
    size = len(tokenizer.decode(row[1:]).encode())
    return nats / math.log(2) / size, math.exp(nats / (len(row) - 1))


def test_against_one_token_at_a_time(folder):
    card = Perplexity(model=str(folder), max_tokens=32, batch_tokens=70)
    made = card.score(table_of(TEXTS))
    assert tuple(made) == card.columns() == ("bits_per_byte", "perplexity")
    for text, bits, perplexity in zip(TEXTS, *made.values(), strict=True):
        if text:
            assert (bits, perplexity) == pytest.approx(by_hand(folder, text, 32, True), rel=1e-4)
        else:
            assert np.isnan(bits) and np.isnan(perplexity)
    assert made["bits_per_byte"].dtype == np.float32


def test_a_tokenizer_without_marks(folder, tmp_path):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    bits, perplexity = Perplexity(model=str(tmp_path), prefix="tiny_", max_tokens=512).score(table_of([TEXTS[0], "x"])).values()
    assert (bits[0], perplexity[0]) == pytest.approx(by_hand(folder, TEXTS[0], 512, False), rel=1e-4)
    # one token that nothing is in front of
    assert np.isnan(bits[1]) and np.isnan(perplexity[1])


def test_too_long_for_the_model(folder):
    with pytest.raises(ConfigError, match="the model reads 512"):
        Perplexity(model=str(folder), max_tokens=513).score(table_of(["a"]))


def test_batches_hold_every_row_once_and_no_more_tokens_than_allowed():
    lengths = [5, 1, 9, 3, 3, 20, 1]
    made = list(batches(lengths, 10))
    assert sorted(row for rows in made for row in rows) == list(range(7))
    assert all(len(rows) * max(lengths[row] for row in rows) <= 10 or len(rows) == 1 for rows in made)
    assert list(batches([], 10)) == []


def checkpoint(folder):
    facts = {"fingerprint": "", "config": {}, "identity": {}, "inputs": [], "files": [], "facts": {}, "metrics": {}}
    rest = {"versions": {}, "git_commit": None, "made_at": "", "seconds": 0.0}
    return Checkpoint(Folder(folder), Manifest(kind="Checkpoint", stage="small", **facts, **rest))


def test_where_the_weights_are(folder, tmp_path, monkeypatch):
    from raylm.core.artifact import open_artifact

    def opened(ref):
        return (
            checkpoint(folder) if ref == "small" else open_artifact(Folder(tmp_path / "stages" / ref if ref == "broken" else ref))
        )

    assert Perplexity(model="small").placed(opened).model == str(folder)
    # a folder without a manifest is somebody's weights; what is nowhere is a name of the hub
    monkeypatch.chdir(folder.parent)
    assert address(folder.name, opened) == str(folder)
    assert address("nobody/nothing", opened) == "nobody/nothing"
    # a stage without its artifact is no name of the hub
    with pytest.raises(ArtifactError, match="nothing finished"):
        address("broken", opened)
