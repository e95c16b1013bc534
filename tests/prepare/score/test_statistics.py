"""Every statistic against hand-counted texts and against a slow reference, on random and on nasty texts."""

import random

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.prepare.score.statistics import COLUMNS, DIVERGENCES, Statistics
from tests.prepare.score.slow_statistics import slow_statistics

NASTY = [
    "",
    "word",
    " \n\t ",
    "\n\n\n",
    "...",
    "!?! --- *** ... …",
    "the " * 3000,
    "a b c d e f g h i j k l " * 40,
    "x" * 5000,
    "x" * 1001 + " y z.\nA short one here.",
    "\x00 nul \x00\x00 bytes. and\x00more",
    "one\r\ntwo\r\n\r\none\r\ntwo.\rthree\x0bfour\x0cfive\u2028six\u0085seven",
    "Привет, мир! Это — тест. 你好，世界。これはテストです。 مرحبا بالعالم؟ नमस्ते दुनिया।",  # noqa: RUF001
    "今天会议讨论了城市交通，专家认为应该增加公共汽车线路。今天会议讨论了（城市交通）abc中文12中 x中。",  # noqa: RUF001
    "ในกรุงเทพ มีน้ำ ประเทศไทย ภาษาลาว ភាសាខ្មែរ မြန်မာ 東京カタカナー 한국어 문장 𠀀𠀁字",
    "emoji 👩‍👩‍👧 😀😀 flags 🇩🇪 • bullet\n• second\n- third\n‣ fourth ⟨x⟩ ١٢٣",
    "Don't we've it’s they'll I'd CAN'T 's n't rock-n-roll well--known 3-4 a/b and/or x=y end.Start U.S.A. e.g. foo…bar ~x~",  # noqa: RUF001
    "see http://a.b/c?d=%20%2g, https://x.y:80/(z) xhttps://q httphttp://w http:// https:/no",
    "Lorem ipsum dolor sit amet.\n\nThis site uses cookies. See our Privacy Policy.\n\n\nPrivacy overview\nThe JavaScript now.",
    "function() { return 1; }\nA line with { bracket in it.\nvar x = {javascript: 1} is here.",
    "A fact.[1][23]\nAnother fact. [edit]\nThird is true.[citation needed]\nFourth[] one ends!\nfifth goes on...\nsixth ]",
    "# Title\n## Two #\n#a# #b#c [...] (...) […] (…) -» read more\nand Read More..\nRead more\n […]",
    "same line\nsame line\n\nsame line\nsame line\n\n  same line\nsame line  ",
    "a\n\n\nb\n\n\n\na\n\nb\n",
    "\nlead\n\n \n\ntrail\n",
    "He said \"No.\" (Really?) 'Yes!' She left. . . and. ? ?",
    "he is the is he is this is he is\nhe  is",
    "aaaa aaaab aaaa aaaab aaaa aaaa aaaa aaaab",
    "\ufeffbom \u00a0nbsp\u3000wide\u200bzero \u2009thin",
    "ⅫⅫ Ⓐ ² ½ ͏ é é",
]


def table(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


def differences(texts, card=Statistics()):
    made = card.score(table(texts))
    for row, text in enumerate(texts):
        for name, value in slow_statistics(text).items():
            if not np.isclose(made[name][row], value, rtol=1e-5, atol=1e-6, equal_nan=True):
                yield text[:60], name, float(made[name][row]), value


def test_nasty_texts_equal_the_slow_reference():
    assert list(differences(NASTY)) == []


def test_random_texts_equal_the_slow_reference():
    draw = random.Random(7)
    pieces = ["the", "of", "that", "don't", "end.", "Stop!", "#", "...", "…", "•", "-", "x,y", "a-b", "http://u.v", "{", "}"]
    pieces += ["[1]", "é", "中", "文。", "café", "12", "3.4", "(in)", '"', "'"]
    pieces += ["\n", "\n\n", "\n\n\n", "\r\n", "\t", " "]
    pieces += ["lorem ipsum", "javascript", "cookie policy", "read more", "the end of that line."]
    texts = [
        "".join(draw.choice(pieces) + draw.choice([" ", " ", " ", "", "\n"]) for _ in range(draw.randrange(150)))
        for _ in range(400)
    ]
    assert list(differences(texts)) == []


def test_repetition_at_every_distance():
    draw = random.Random(8)
    words = [f"w{k}" for k in range(12)]
    texts = [" ".join(draw.choice(words[: draw.randrange(1, 13)]) for _ in range(draw.randrange(300))) for _ in range(200)]
    for _ in range(100):  # a long run that comes back, with or without a change in it
        run = [draw.choice(words) for _ in range(draw.randrange(4, 14))]
        texts.append(" ".join(word for _ in range(6) for word in (run if draw.random() < 0.6 else [*run, draw.choice(words)])))
    assert list(differences(texts)) == []


def test_hand_counted():
    text = "The cat and the dog.\nThe cat and the dog.\n- it's 42..."
    made = {name: column[0] for name, column in Statistics().score(table([text])).items()}
    # tokens: The cat and the dog . | The cat and the dog . | - it 's 42 ...
    assert made["num_chars"] == 54
    assert made["num_words"] == 13
    assert made["mean_word_chars"] == pytest.approx((3 + 3 + 3 + 3 + 3) * 2 / 13 + (2 + 2 + 2) / 13)
    assert made["ellipsis_word_ratio"] == pytest.approx(1 / 17)
    assert made["bullet_line_share"] == made["ellipsis_line_share"] == pytest.approx(1 / 3)
    assert made["num_stop_words"] == 2
    assert made["dup_line_share"] == pytest.approx(1 / 3)
    assert made["dup_line_char_share"] == pytest.approx(20 / 54)
    assert made["dup_5gram_char_share"] == pytest.approx(15 / 54)
    assert made["newline_word_ratio"] == pytest.approx(2 / 17)
    assert made["nemo_num_words"] == 13 and made["nemo_num_common_words"] == 4
    # "The cat" stands twice, as "and the" and others; the earliest counts: 7 characters, twice
    assert made["nemo_top_2gram_char_share"] == pytest.approx(14 / 54)


def test_columns_are_what_is_made():
    card = Statistics()
    made = card.score(table(["x"]))
    assert tuple(made) == card.columns() and len(made) == 1 + sum(map(len, COLUMNS.values()))
    assert len(COLUMNS["nemo"]) == 28
    assert set(slow_statistics("x")) == set(made)
    assert Statistics(families=("c4",)).columns() == ("num_chars", *COLUMNS["c4"])
    assert {column.dtype.name for column in made.values()} == {"int32", "float32"}


def test_slices_chunks_and_nulls():
    whole = table(["zero", "one two", "three four five"])
    assert Statistics().score(whole.slice(1))["nemo_num_words"].tolist() == [2, 3]
    parts = pa.table({"text": pa.chunked_array([["one two"], [None, "x"]], pa.string())})
    assert Statistics().score(parts)["nemo_num_words"].tolist() == [2, 0, 1]
    assert Statistics().score(table([]))["num_words"].tolist() == []


def test_stop_words_of_another_language():
    card = Statistics(stop_words=("der", "die", "das"))
    assert card.score(table(["der und die oder der"]))["num_stop_words"].tolist() == [2]
    with pytest.raises(ValidationError, match="at most 62"):
        Statistics(stop_words=("a", "a"))


def test_documents_far_larger_than_the_first_arrays():
    text = "word, " * 20000 + "\n" * 20000 + "{" * 20000
    made = Statistics().score(table(["small", text, "small"]))
    assert made["nemo_num_words"].tolist() == [1, 20001, 1]
    assert made["newline_word_ratio"][1] == pytest.approx(20000 / 60000)


def test_divergences_are_named_and_explained():
    assert all(len(why) > 40 for why in DIVERGENCES.values())


def test_a_folder_that_cannot_be_written(tmp_path):
    import os
    import subprocess
    import sys

    (tmp_path / "file").write_text("")
    code = (
        "import pyarrow as pa\nfrom raylm.prepare.score.statistics import Statistics\n"
        "import numba.core.caching as c\nc.CacheImpl._locator_classes = []\n"
        "Statistics().score(pa.table({'text': ['x']}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert "ConfigError" in done.stderr and "set NUMBA_CACHE_DIR" in done.stderr


def test_scripts_without_spaces_have_words():
    from raylm.prepare.filters.gopher_quality import GopherQuality
    from raylm.prepare.filters.gopher_repetition import GopherRepetition

    chinese = "".join(
        f"第{at}次会议讨论了{a}与{b}的问题，专家认为应该{c}。"  # noqa: RUF001
        for at, (a, b, c) in enumerate(
            zip("城市交通河流水质公共汽车", "教育经济环境保护文化历史", "增减改建立学习停止开始继", strict=True)
        )
    )
    thai = "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย วันนี้อากาศดีมากและมีคนมากมายในสวนสาธารณะ หนังสือเล่มนี้เล่าเรื่องประวัติศาสตร์"
    english = "The people of the town have a lot to say and they will be at the river to see that it is done with care. " * 2
    made = Statistics(stop_words=("的", "了", "the", "to")).score(table([chinese, thai, english]))
    assert made["num_words"].tolist()[0] == sum(char.isalnum() for char in chinese) - 2  # two numbers of two digits
    assert 50 < made["num_words"][1] < len(thai) and made["num_sentences"][0] == 12
    assert np.isnan(made["mean_word_chars"]).tolist() == [True, True, False]
    assert made["num_stop_words"].tolist() == [2, 0, 2]
    columns = pa.table({"text": [chinese, thai, english], **{name: pa.array(values) for name, values in made.items()}})
    reasons = GopherQuality(min_stop_words=0, min_words=30).judge(columns).reasons
    assert list(reasons) == ["", "", ""]
    assert list(GopherRepetition().judge(columns.slice(1, 1)).reasons) == [""]
