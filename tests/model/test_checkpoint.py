"""Written weights load in transformers, and nothing half-written is left."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raylm.core.storage import Folder
from raylm.model.checkpoint import end_tokens, lacks_turn_end, num_parameters, turn_end, write_checkpoint, write_tokenizer
from raylm.model.load import load_model, load_tokenizer
from raylm.model.weight_files import weight_names
from tests.model.tiny import tiny_checkpoint, tiny_composite, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_loads_in_transformers(tmp_path, tied):
    source = tiny_checkpoint(tmp_path / "source", vocab=300, hidden=32, layers=1)
    model = tiny_model(vocab=300, hidden=32, layers=1, seed=9)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    out = Folder(tmp_path / "out")

    write_checkpoint(out, model.config, model.state_dict(), str(source), extra=lambda at: (at / "note.txt").write_text("x"))

    loaded = AutoModelForCausalLM.from_pretrained(out.uri)
    tokens = torch.tensor([[1, 8, 99]])
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert ("lm_head.weight" in weight_names(tmp_path / "out")) is not tied
    assert AutoTokenizer.from_pretrained(out.uri).encode("import this") == AutoTokenizer.from_pretrained(source).encode(
        "import this"
    )
    assert GenerationConfig.from_pretrained(out.uri).eos_token_id == 2
    assert "note.txt" in out.files()
    assert not [name for name in out.files() if name.startswith(".")]


def test_tied_weights_are_counted_once():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 3, bias=False), "b": torch.nn.Linear(4, 3, bias=False)})
    assert num_parameters(model) == 24
    model["b"].weight = model["a"].weight
    assert num_parameters(model) == 12


SMALL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDES = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    at = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(300).save_pretrained(at)
    return at


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2", "bert", "t5", "bart", "mixtral"])
def test_a_head_is_left_out_where_it_equals_the_embedding_and_only_there(tmp_path, tokenizer, kind, own):
    torch.manual_seed(0)
    config = {
        "llama": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
        "gemma": lambda: transformers.GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=8),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2),
        "bert": lambda: transformers.BertConfig(**SMALL),
        "t5": lambda: transformers.T5Config(vocab_size=300, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2),
        "bart": lambda: transformers.BartConfig(**SIDES),
        "mixtral": lambda: transformers.MixtralConfig(**SMALL, num_local_experts=2, tie_word_embeddings=True),
    }[kind]()
    auto = {"bert": "MaskedLM", "t5": "Seq2SeqLM", "bart": "Seq2SeqLM"}.get(kind, "CausalLM")
    model = getattr(transformers, f"AutoModelFor{auto}").from_config(config)
    model.config.architectures = [type(model).__name__]
    if own:
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach() * 2)
    write_checkpoint(Folder(tmp_path), model.config, model.state_dict(), str(tokenizer))
    loaded = load_model(str(tmp_path)).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(tensor.equal(loaded[name]) for name, tensor in model.state_dict().items())
    if auto == "CausalLM":
        assert json.loads((tmp_path / "config.json").read_text()).get("tie_word_embeddings", True) is not own
        assert ("lm_head.weight" in weight_names(tmp_path)) is own


def test_what_the_start_says_besides_its_weights_is_kept(tmp_path):
    start = tiny_checkpoint(tmp_path / "start", vocab=300, hidden=32, layers=1)
    model = tiny_model(vocab=300, hidden=32, layers=1, seed=3)
    model.to(torch.bfloat16).save_pretrained(start)
    # transformers reads such a mixture, but refuses to write it
    said = {"do_sample": False, "temperature": 0.6, "top_k": 20, "eos_token_id": [7, 3], "pad_token_id": 0, "our_own": "x"}
    (start / "generation_config.json").write_text(json.dumps(said))
    (start / "preprocessor_config.json").write_text('{"size": 7}')
    write_checkpoint(Folder(tmp_path / "out"), model.config, model.float().state_dict(), str(start), start=str(start))
    # the end of a turn in the chat template, token 2, ends a completion too
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {**said, "eos_token_id": [7, 3, 2]}
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == '{"size": 7}'
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (start / name).read_bytes()


def test_a_new_model_stops_where_its_template_ends_a_turn(tmp_path, tokenizer):
    model = tiny_model(vocab=300, hidden=32, layers=1)
    write_checkpoint(Folder(tmp_path / "same"), model.config, model.state_dict(), str(tokenizer))
    assert GenerationConfig.from_pretrained(tmp_path / "same").eos_token_id == 2
    model.config.eos_token_id = 5
    write_checkpoint(Folder(tmp_path / "other"), model.config, model.state_dict(), str(tokenizer))
    assert GenerationConfig.from_pretrained(tmp_path / "other").eos_token_id == [5, 2]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}<|user|>{{ m['content'] }}<|end|>\n{% endfor %}", 2),
        ("{% for m in messages %}<|user|>{{ m['content'] | trim }}\n{{ eos_token }}{% endfor %}", 2),
        ("{% for m in messages %}{{ m['content'] }}{{ '<|pad|>' if loop.last else '<|end|>' }}{% endfor %}", 0),
        ("{% for m in messages %}<|user|>{{ m['content'] }}\n{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
        ("{{ messages[9]['role'] }}", None),
        ("{% for %}", None),
    ],
)
def test_the_end_of_a_turn_is_what_the_template_writes_behind_an_answer(template, end):
    tokenizer = tiny_tokenizer(300)
    tokenizer.chat_template = template
    assert turn_end(tokenizer) == end and lacks_turn_end(tokenizer) is (end is None)
    tokenizer.chat_template = None
    assert turn_end(tokenizer) is None and not lacks_turn_end(tokenizer)


@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_a_composite_model_is_written_whole(tmp_path, tokenizer, kind):
    model = tiny_composite(kind)
    model.save_pretrained(tmp_path / "start")
    (tmp_path / "start" / "processor_config.json").write_text("{}")
    (tmp_path / "start" / "chat_template.json").write_text('{"chat_template": "another"}')
    start = str(tmp_path / "start")
    write_checkpoint(Folder(tmp_path / "out"), model.config, model.state_dict(), str(tokenizer), start=start)
    assert weight_names(tmp_path / "out") == weight_names(tmp_path / "start")
    # of the processor's own template vLLM would render other prompts than the rows were
    assert (tmp_path / "out" / "processor_config.json").is_file() and not (tmp_path / "out" / "chat_template.json").exists()
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(loaded) is type(model)
    assert all(tensor.equal(loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_tokenizer_is_copied_as_it_lies(tmp_path, tokenizer):
    (tmp_path / "odd").mkdir()
    for path in tokenizer.iterdir():
        (tmp_path / "odd" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "odd" / "additional_chat_templates").mkdir()
    (tmp_path / "odd" / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    (tmp_path / "odd" / "model.safetensors").write_text("not a tokenizer's")
    (tmp_path / "to").mkdir()
    write_tokenizer(str(tmp_path / "odd"), tmp_path / "to")
    copied = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert copied == {path.name for path in tokenizer.iterdir()} | {"additional_chat_templates/tool_use.jinja"}


def test_what_ends_a_completion(tmp_path):
    """A checkpoint whose generation config leaves out the end of a turn; one without a generation config; no chat template."""
    folder = tiny_checkpoint(tmp_path)
    tokenizer = load_tokenizer(str(folder))
    assert turn_end(tokenizer) == 2
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    tokenizer.eos_token = "<|pad|>"
    assert end_tokens(folder, tokenizer) == [0, 2, 7, 8]
    tokenizer.chat_template = None
    assert end_tokens(folder, tokenizer) == [0, 7, 8]
    (folder / "generation_config.json").unlink()
    assert end_tokens(folder, tokenizer) == [0, 2]  # config.json's
