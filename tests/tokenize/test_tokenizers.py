"""The tokenizer of a stage: trained over the cluster with the same bytes for any shards and workers, extended, or taken."""

import pytest

from raylm.core.errors import DataError
from raylm.tokenize.config import Tokenize
from raylm.tokenize.tokenizers import load
from tests.stages import payload, run_stage
from tests.tokenize.samples import documents_of

pytestmark = pytest.mark.ray

TEXT = {"kind": "text", "length": 32}
CARDS = (
    {"kind": "bpe", "vocab_size": 320, "pattern": "gpt4"},
    {"kind": "unigram", "vocab_size": 320},
    {"kind": "word_piece", "vocab_size": 600},
)


def _stage(root, name, documents, tokenizer, workers, count=2):
    cfg = Tokenize(documents=documents, tokenizer=tokenizer, form=TEXT, held_out=0.1, workers={"count": count})
    return run_stage(root, name, cfg, workers)


def _files(artifact):
    return {name: digest for name, digest in payload(artifact).items() if name.startswith("tokenizer/")}


def test_the_same_bytes_for_any_shards_and_workers_then_extended(tmp_path, workers):
    for num in (1, 2, 7):
        documents_of(tmp_path, f"docs{num}", num)
    for card in CARDS:
        kind = card["kind"]
        runs = [_stage(tmp_path, f"{kind}{num}{count}", f"docs{num}", card, workers, count) for num, count in ((1, 1), (7, 2))]
        assert _files(runs[0]) == _files(runs[1]) and "tokenizer/tokenizer.json" in _files(runs[0])
        assert runs[0].facts["trained_on_bytes"] == runs[1].facts["trained_on_bytes"] > 0
        # nothing of the counting is left behind
        assert all(
            name.startswith(("tokenizer/", "train-", "held_out-", "index-", "fertility.json")) for name in payload(runs[1])
        )
    again = _stage(tmp_path, "again", "docs2", CARDS[0], workers)
    assert _files(again) == _files(_made(tmp_path, "bpe11"))

    documents_of(tmp_path, "domain", 2, [f"Thrombocytes adhere; thrombocytopenia {at}." for at in range(40)])
    card = {"kind": "extend", "base": "bpe11", "vocab_size_added": 8}
    made, plain = (_stage(tmp_path, f"domain-{at}", "domain", base, workers) for at, base in enumerate((card, "bpe11")))
    assert made.facts["vocab_size"] == 328 and made.facts["bytes_per_token"] > 1.1 * plain.facts["bytes_per_token"]
    assert _files(plain) == _files(again) and "trained_on_bytes" not in plain.facts
    old, new = (load(tmp_path / name / "tokenizer").get_vocab() for name in ("bpe11", "domain-0"))
    assert {token: id for token, id in new.items() if id < 320} == old
    given = _stage(tmp_path, "given", "domain", {"kind": "extend", "base": "bpe11", "words": ["Thrombocytes"]}, workers)
    assert given.facts["vocab_size"] > 321 and "Thrombocytes" in load(tmp_path / "given" / "tokenizer").get_vocab()
    with pytest.raises(DataError, match="only a byte-level BPE tokenizer"):
        _stage(tmp_path, "wrong", "domain", {**card, "base": "unigram11"}, workers)


def _made(root, name):
    from raylm.core.artifact import open_artifact
    from raylm.core.storage import Folder

    return open_artifact(Folder(root / name))


def test_a_tokenizer_with_several_chat_templates_is_taken_whole(tmp_path):
    from raylm.core.artifact import Tokens
    from raylm.tokenize import tokenizers
    from tests.model.tiny import tiny_tokenizer
    from tests.stages import context

    tokenizer = tiny_tokenizer(300)
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    tokenizer.save_pretrained(tmp_path / "own")
    for name, taken in (("one", str(tmp_path / "own")), ("two", "one")):
        ctx = context(tmp_path, name)
        cfg = Tokenize(documents="docs", tokenizer=taken, form=TEXT)
        tokenizers.place(cfg, ctx, None)
        ctx.commit(Tokens, facts={}, rows={})
        assert load(tmp_path / name / "tokenizer").chat_template == tokenizer.chat_template
