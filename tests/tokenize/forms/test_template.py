"""Chat templates of real families, originals and TRL's training variants: tokens and mask against transformers.

What a template leaves out is refused with a reason; what it renders is rendered as `apply_chat_template` does.
"""

import pytest

from raylm.core.errors import DataError
from tests.tokenize.samples import tokenizer
from tests.tokenize.templates import DIALOGUES, chat_of, learned, templates, without_marks

NO_THOUGHTS, NO_TOOLS = "template_leaves_out: reasoning", "template_leaves_out: tools"
# by family: number of rows, or the reason why there is none, of each of DIALOGUES (plain, system, reasoning, tools, both)
_WORDS_ONLY = (1, 1, NO_THOUGHTS, NO_TOOLS, NO_TOOLS)
_TOOLS = (1, 1, NO_THOUGHTS, 1, NO_THOUGHTS)
_ALL, _OLD_THOUGHTS_GO = (1, 1, 1, 1, 1), (1, 1, 2, 1, 1)
FAMILIES = {
    **dict.fromkeys(("cohere", "cohere2", "gemma3", "llama3", "phi3", "phi3_5", "qwen2_5_vl"), _WORDS_ONLY),
    **dict.fromkeys(("deepseek_r1_distill", "deepseekv3"), _WORDS_ONLY),
    "gemma": (1, "template_refuses", NO_THOUGHTS, NO_TOOLS, NO_TOOLS),
    "lfm2": (1, 1, NO_THOUGHTS, "template_leaves_out: tool_calls", "template_leaves_out: tool_calls"),
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "lfm2_v2", "llama3_1", "llama3_2", "qwen2_5"), _TOOLS),
    **dict.fromkeys(("qwen3_instruct_2507", "qwen3_vl"), _TOOLS),
    **dict.fromkeys(("diffusion_gemma", "gemma4_v5", "glm4moe", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"), _OLD_THOUGHTS_GO),
    **{f"nemotron_3_{name}": _OLD_THOUGHTS_GO for name in ("5_lightning", "nano", "super", "ultra")},
    **dict.fromkeys(("muse_glimmer", "qwen3_8"), _ALL),
    # other ends of old answers, other think blocks of old answers
    "gptoss": (2, 2, 2, 2, 2),
    "qwen3": (2, 2, 2, 3, 1),
    **dict.fromkeys(("qwen3_5_nothink", "qwen3_5_think", "qwen3_6"), (2, 2, 2, 2, 1)),
    # TRL's copies that render old answers as new ones
    **dict.fromkeys(("qwen3_training", "qwen3_5_nothink_training", "qwen3_5_think_training", "qwen3_6_training"), _ALL),
}
# where the answer is rendered behind another prompt than is sent in serving: an open think block, an empty one
OTHER_PROMPT = ("deepseek", "nemotron", "qwen3_5_nothink")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("coder"))


@pytest.mark.parametrize("path", templates(), ids=lambda path: path.stem)
def test_families(plain, path):
    template = path.read_text()
    coder, chat = chat_of(plain, template)
    family = path.stem if path.stem in FAMILIES else path.stem.removesuffix("_training")
    for (turns, tools), right in zip(DIALOGUES.values(), FAMILIES[family], strict=True):
        # as transformers is to be asked: gpt-oss reads thoughts under another key
        keyed = [{chat.template.reasoning_key if k == "reasoning_content" else k: v for k, v in turn.items()} for turn in turns]
        if isinstance(right, str):
            with pytest.raises(DataError) as caught:
                chat.left_out(tools), chat.rows(turns, tools)
            assert caught.value.what == right
            continue
        rows = chat.rows(turns, tools)
        assert len(rows) == right and sum(
            "weight" not in turn for row in rows for turn in row.turns if turn["role"] == "assistant"
        )
        for row in rows:
            asked = keyed[: len(row.turns)]
            theirs = coder.apply_chat_template(
                asked, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=chat.template.marked
            )
            text = coder.decode(row.tokens)
            # an edge of a trained part may part a token; the answer itself may change what is rendered before it
            if family != "gptoss" or "reasoning_content" not in turns[1]:
                assert text == coder.decode(theirs["input_ids"])
            if not family.startswith(OTHER_PROMPT):
                assert text.startswith(coder.apply_chat_template(asked[:-1], tools, tokenize=False, add_generation_prompt=True))
            if right == 1 and chat.template.marked:
                assert row.tokens == theirs["input_ids"] and row.mask == theirs["assistant_masks"]
        assert family.startswith(OTHER_PROMPT) or all(row.behind_prompt for row in rows)


@pytest.mark.parametrize("path", templates("_training"), ids=lambda path: path.stem)
def test_without_marks_thoughts_and_calls_are_found_as_trl_marks_them(plain, path):
    family = path.stem if path.stem in FAMILIES else path.stem.removesuffix("_training")
    for name in ("reasoning", "tools", "tools and reasoning"):
        (turns, tools), right = DIALOGUES[name], FAMILIES[family][[*DIALOGUES].index(name)]
        if isinstance(right, str) or family == "gptoss":
            continue
        coder, marked = chat_of(plain, path.read_text())
        _, bare = chat_of(plain, without_marks(path.read_text()))
        theirs, ours = learned(coder, *marked.dialogue(turns, tools)), learned(coder, *bare.dialogue(turns, tools))
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            # TRL's marks may hold the header, too; this family's answers end with a token that they leave out
            other = other.removesuffix("<|tool_response>") if family == "diffusion_gemma" else other
            assert one.endswith(other) and ("<think>" not in one or other.lstrip() in one)


def test_thoughts_under_another_key_and_a_template_of_its_own_for_tools(plain):
    marks = "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.thinking or '') + m.content + '<|end|>' }}{% endfor %}"
    marks += "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    coder, chat = chat_of(plain, marks)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "why"}]
    assert learned(coder, *chat.dialogue(turns)) == ["whyb<|end|>"]
    coder, chat = chat_of(plain, marks)
    coder.chat_template = {"default": marks, "tool_use": "{{ tools | tojson }}" + marks}
    chat = type(chat)(coder)
    tools = [{"type": "function", "function": {"name": "f"}}]
    tokens, _ = chat.dialogue([*turns[:1], {"role": "assistant", "content": "b"}], tools)
    assert coder.decode(tokens).startswith('[{"type": "function"')
    assert not chat.left_out(tools) and chat.template is not chat._tool_template
