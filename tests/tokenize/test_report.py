"""The tokenize report: rows decoded with their mask, vocabulary, rates by source; hostile text stays text."""

import re

import pyarrow as pa
import pytest

from raylm.core.artifact import REPORT
from raylm.core.storage import Folder
from raylm.data.shards import write_arrow
from raylm.tokenize.report import lost_documents, print_lost, write_report

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([EVIL] * 9, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made)


def _facts(form, **more):
    facts = {"form": form, "length": 1024, "rows": {"train": 2, "held_out": 1}, "num_tokens": 1234567, "vocab_size": 320}
    return facts | {"documents": {"train": 6, "held_out": 1}, "dropped": {"too_long": 3, EVIL: 1}} | more


def test_rows_are_decoded_with_their_mask(tmp_path, tokenizer):
    out = Folder(tmp_path)
    ids = tokenizer.encode(f"ask {EVIL}")
    rows = {"id": ["a", "b"], "tokens": [ids, ids * 500], "mask": [[0, *[1] * (len(ids) - 1)], [0] * 500 * len(ids)]}
    write_arrow(out, "train-00000.arrow", pa.table(rows))
    rates = {EVIL: {"documents": 2, "bytes": 60, "words": 4, "tokens": 20, "tokens_per_word": 5.0, "bytes_per_token": 3.0}}
    shards = {"train-00000.arrow": 2, "held_out-00000.arrow": 1, "train-00001.arrow": 0}
    write_report(out, "sft", _facts("dialogues"), tokenizer, shards, rates=rates, lengths={"3": 4}, seconds={"encode": 1.0})
    made = out.read(REPORT).decode()
    assert "<script" not in made and len(made) < 100_000
    assert f"tokens: {len(ids)} tokens, {len(ids) - 1} count for the loss" in made
    first = re.findall(r'<span class="(on|off)">([^<]*)</span>', made)[: len(ids)]
    assert [kind for kind, _ in first] == ["off", *["on"] * (len(ids) - 1)]
    assert "".join(text for _, text in first) == "ask &lt;script&gt;alert(1)&lt;/script&gt;"
    assert "1,234,567" in made and "too_long" in made and '<td class="n">5</td>' in made and "merges, from the first" in made


def test_prompts_do_not_count_and_packed_rows_do(tmp_path, tokenizer):
    ids = tokenizer.encode("abc")
    for name, form, columns in (
        ("pairs", "pairs", {"prompt": [ids], "chosen": [ids], "rejected": [ids]}),
        ("text", "text", {"tokens": pa.FixedSizeListArray.from_arrays(pa.array(ids, pa.int32()), len(ids)), "starts": [[0]]}),
    ):
        out = Folder(tmp_path / name).make()
        write_arrow(out, "train-00000.arrow", pa.table(columns))
        packing = {"kind": "crop", "crop_share": 0.25, "pad_share": 0.0}
        write_report(out, name, _facts(form, packing=packing, bytes_per_token=3.25), tokenizer, {"train-00000.arrow": 1})
        made = out.read(REPORT).decode()
        assert ("prompt: 3 tokens, 0 count" in made) == (form == "pairs")
        assert f"{'chosen' if form == 'pairs' else 'tokens'}: 3 tokens, 3 count for the loss" in made
        assert "crop_share" in made and "3.250" in made


def test_more_than_a_tenth_lost_is_reported_with_its_reasons(capsys):
    facts = {"documents": {"train": 90, "held_out": 10}, "dropped": {"too_long": 4, "unread_key: tools": 6, "partial_row": 50}}
    assert lost_documents(facts) is None
    print_lost("sft", facts)
    assert capsys.readouterr().err == ""
    facts["dropped"]["too_long"] = 14
    assert lost_documents(facts) == "20 of 100 documents (20%) gave no row: too_long 14, unread_key: tools 6"
    print_lost("sft", facts)
    assert "sft: 20 of 100 documents (20%) gave no row: too_long 14" in capsys.readouterr().err
