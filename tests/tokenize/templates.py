"""Chat templates of real families, as they ship inside TRL's package, with a small tokenizer that has their special tokens."""

import copy
import re
from pathlib import Path

from tokenizers import AddedToken

from raylm.tokenize.forms.chat import Chat
from tests.tokenize.samples import turn

_SPECIAL = re.compile(
    r"<\|[^|<>\s'\"{}]+\|>|<\uff5c[^\uff5c'\"]+\uff5c>|<(?:start|end)_of_turn>|\[/?INST\]|<\|[a-z_]+>|<[a-z_]+\|>|<\|\"\|>"
)
# these take lists of parts, images among them, and no plain text
_PICTURES = ("idefics3", "llava_next", "smolvlm")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name of it."},
                    "days": {"type": "integer", "description": "How many."},
                },
                "required": ["city"],
            },
        },
    }
]


def call(name, **arguments):
    """A call as rows have it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def said(content="", **more):
    """A turn of the assistant."""
    return turn("assistant", content) | more


ASK, LOOK = turn("user", "Rain?"), said(tool_calls=[call("weather", city="Paris", days=2)])
WET = turn("tool", "wet") | {"name": "weather"}
DIALOGUES = {
    "plain": ([turn("user", "Hi"), said("Hello there"), turn("user", "a"), said("b")], None),
    "system": ([turn("system", "Be kind."), turn("user", "Hi"), said("Hello there"), turn("user", "a"), said("b")], None),
    "reasoning": (
        [turn("user", "Hi"), said("Hello", reasoning_content="I greet."), turn("user", "a"), said("b", reasoning_content="So.")],
        None,
    ),
    "tools": ([ASK, LOOK, WET, said("It rains."), turn("user", "ok"), said("bye")], TOOLS),
    "tools and reasoning": (
        [ASK, LOOK | {"reasoning_content": "I must look."}, WET, said("It rains.", reasoning_content="So wet.")],
        TOOLS,
    ),
}


def templates(ending=""):
    """Files of TRL's package whose stem ends so."""
    import importlib.util

    spec = importlib.util.find_spec("trl")
    found = sorted((Path(spec.origin).parent / "chat_templates").glob(f"*{ending}.jinja")) if spec and spec.origin else []
    return [path for path in found if not path.stem.startswith(_PICTURES)]


def without_marks(template):
    """The template with `{% generation %}` taken out."""
    bare = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", template)
    return re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", bare)


def chat_of(plain, template):
    """(a copy of the tokenizer with this template and its special tokens, its Chat)."""
    coder = copy.deepcopy(plain)
    known = coder.get_vocab()
    names = sorted(set(_SPECIAL.findall(template)) - set(known))
    coder.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    coder.chat_template = template
    return coder, Chat(coder)


def learned(coder, tokens, mask):
    """The stretches of equal mask that are learned, decoded."""
    parts, before = [], 0
    for token, on in zip(tokens, mask, strict=True):
        if on:
            parts += [[token]] if not before else []
            parts[-1] += [token] if before else []
        before = on
    return [coder.decode(part) for part in parts]
