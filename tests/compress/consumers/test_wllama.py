"""wllama in a headless Chromium on tiny files that are written here: it says what transformers says. Random models say half
characters, for which it has no words."""

from __future__ import annotations

import pytest

from raylm.compress.consumers.parity import Asked, prove
from raylm.compress.consumers.wllama import Wllama
from raylm.model.gguf.write import write_gguf
from tests.compress.consumers.planted import PROMPTS, reference
from tests.model.gguf.small import small

WHY = Wllama().installed()


@pytest.mark.long
@pytest.mark.skipif(bool(WHY), reason=WHY)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_it_reads_what_was_written_as_the_same_model(tmp_path, kind):
    write_gguf(small(kind), tmp_path / "model.gguf", "f32")
    asked = Asked("gguf", exact=True, noise=1e-3, most_kl=1e-3, max_tokens=8)
    said = reference(kind)
    parity = prove(asked, tmp_path, str(small(kind)), PROMPTS, consumers=[Wllama()], reference=said, say=lambda line: None)
    (found,) = parity.verdicts
    assert not parity.wrong(), parity.lines()
    assert found.ids_equal + found.untold == 4 and found.untold < 4 and not found.tells_ids
    assert found.tokens_equal + found.near_ties + found.untold == 4


def test_what_is_missing_is_told_with_the_command_that_brings_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "raylm convert --install-consumers" in Wllama().installed() or "there is n" in Wllama().installed()
