"""Job files: every mistake is named with file, line and key."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from raylm.core import toml
from raylm.core.config import Config
from raylm.core.errors import ConfigError


class Near(Config):
    kind: Literal["near"] = "near"
    length: int = 1


class Far(Config):
    kind: Literal["far"] = "far"
    depth: int


class Root(Config):
    name: str
    lr: float = 0.1
    cards: list[Annotated[Near | Far, Field(discriminator="kind")]] = Field(default_factory=list)
    tables: dict[str, Near] = Field(default_factory=dict)


TEXT = """\
# a comment
name = "x"

cards = [
    {kind = "near", length = 2},
    {kind = "far", depth = 3},
]

[tables.one]
length = 4
"""


def read(tmp_path, text):
    path = tmp_path / "job.toml"
    path.write_text(text)
    return toml.read(path)


def test_reads_a_file(tmp_path):
    root = toml.check(Root, *read(tmp_path, TEXT))
    assert root.tables["one"].length == 4
    assert [card.kind for card in root.cards] == ["near", "far"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "x"', 'nam = "x"', r"job\.toml:2 nam: unknown key\. Did you mean 'name'\?"),
        ("length = 2", "lenght = 2", r"job\.toml:5 cards\.0\.lenght: unknown key\. Did you mean 'length'\?"),
        ("depth = 3", "depth = 'deep'", r"job\.toml:6 cards\.1\.depth: Input should be a valid integer"),
        (", depth = 3", "", r"job\.toml:4 cards\.1\.depth: this key is needed"),
        ("length = 4", "lengt = 4", r"job\.toml:10 tables\.one\.lengt: unknown key"),
        ('kind = "far"', 'kind = "fur"', r"cards\.1\.kind: no kind is called 'fur'\. Did you mean 'far'\?"),
        ('kind = "far", ', "", r"cards\.1: this table does not say its kind"),
        ("[tables.one]\nlength = 4", "[tables]\none = 4", r"tables\.one: a table is needed here"),
    ],
)
def test_names_file_line_and_key(tmp_path, old, new, said):
    with pytest.raises(ConfigError, match=said):
        toml.check(Root, *read(tmp_path, TEXT.replace(old, new)))


def test_lists_every_mistake_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        toml.check(Root, *read(tmp_path, TEXT.replace("length = 2", "lenght = 2").replace("length = 4", "lengt = 4")))
    assert len(str(caught.value).splitlines()) == 2


def test_broken_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="not a TOML file"):
        read(tmp_path, "name = ")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(ConfigError, match="not a TOML file"):
        toml.read(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="no such job file"):
        toml.read(tmp_path / "none.toml")


def test_override_sets_values_of_every_kind(tmp_path):
    data, _ = read(tmp_path, TEXT)
    changed = toml.override(data, ["lr=0.5", "tables.one.length=9", "cards.0.length=7", "name=a b", "tables.two.length=1"])
    root = toml.check(Root, changed, toml.Source("job.toml", TEXT))
    assert (root.lr, root.name, root.cards[0].length, root.tables["one"].length) == (0.5, "a b", 7, 9)
    assert root.tables["two"].length == 1
    assert data["tables"]["one"]["length"] == 4


def test_a_file_of_keys_goes_over_a_job_and_its_mistakes_are_named_there(tmp_path):
    over = tmp_path / "over.toml"
    over.write_text('lr = 0.5\n\n[tables.one]\nlength = 9\n[tables.two]\nkind = "near"\n')
    (tmp_path / "job.toml").write_text(TEXT)
    root = toml.check(Root, *toml.read(tmp_path / "job.toml", [str(over), "name=late"]))
    assert (root.lr, root.name, root.tables["one"].length, root.tables["two"].length) == (0.5, "late", 9, 1)
    assert toml.expand([str(over), "a=1"]) == ["lr=0.5", "tables.one.length=9", 'tables.two={kind = "near"}', "a=1"]
    over.write_text("[tables.one]\nlengt = 9\n")
    with pytest.raises(ConfigError, match=r"over\.toml:2 tables\.one\.lengt: unknown key"):
        toml.check(Root, *toml.read(tmp_path / "job.toml", [str(over)]))
    over.write_text('lr = 0.5\ncards = [{kind = "near", lenght = 2}]\n')
    with pytest.raises(ConfigError, match=r"over\.toml:2 cards\.0\.lenght: unknown key"):
        toml.check(Root, *toml.read(tmp_path / "job.toml", [str(over)]))
    with pytest.raises(ConfigError, match=r"no such job file"):
        toml.read(tmp_path / "job.toml", ["there.toml"])
    over.write_text("[tables.one]\n")
    with pytest.raises(ConfigError, match=r"tables\.one: an empty table sets nothing"):
        toml.read(tmp_path / "job.toml", [str(over)])


@pytest.mark.parametrize("wrong", ["lr", "=1", "cards.7.length=1", "name.x=1"])
def test_override_refuses_what_it_cannot_set(tmp_path, wrong):
    with pytest.raises(ConfigError, match="--set"):
        toml.override(read(tmp_path, TEXT)[0], [wrong])
