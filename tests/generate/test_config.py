import pytest

from raylm.core.config import references
from raylm.generate.config import Generate

TABLE = {"stage": "generate", "model": "base", "documents": "texts"}


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"documents": None}, "one of documents, prompts and dialogues is asked about, not none"),
        ({"prompts": "p"}, "not documents and prompts"),
        (
            {"documents": None, "prompts": "p", "template": "{{ text }}"},
            "template is for documents: prompts are rendered already",
        ),
        ({"documents": None, "dialogues": "d", "chat": False}, "chat = false is for documents"),
        ({"keep": "continuation"}, "needs documents and chat = false"),
        ({"documents": None, "dialogues": "d", "keep": "dialogue"}, "needs messages"),
        ({"chat": False, "system": "Be brief."}, "system is a message"),
        ({"template": "{{ text"}, "template: no jinja template"),
        ({"workers": {"count": 4}}, "say generator = "),
        ({"generator": {"sleeps": True}}, "lends memory to a trainer"),
        ({"generator": {"speculation": {"kind": "ngram"}}}, "draws what no seed repeats"),
        ({"sampling": {"temperature": 0, "n": 2}}, "draws the same completion n = 2 times"),
        ({"sampling": {"structure": {"regex": "a", "choice": ["a", "b"]}}}, "asks for one of"),
    ],
)
def test_what_does_not_fit_together_is_refused(table, why):
    with pytest.raises(ValueError, match=why):
        Generate(**TABLE | table)


def test_references_and_identity():
    greedy = TABLE | {"sampling": {"temperature": 0}}
    drafted = Generate(**greedy, generator={"count": 2, "speculation": {"kind": "draft_model", "model": "student"}})
    assert [(ref.path[-1], ref.value) for ref in references(drafted)] == [
        ("model", "base"), ("documents", "texts"), ("model", "student")
    ]  # fmt: skip
    # engines are where it runs; what is drawn is what it is
    assert drafted.fingerprint() == Generate(**greedy).fingerprint()
    assert Generate(**TABLE, sampling={"seed": 1}).fingerprint() != Generate(**TABLE).fingerprint()
    assert drafted.roles()["generator"].count == 2 and drafted.makes().kind == "Documents"
