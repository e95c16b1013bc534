# ruff: noqa: RUF001
"""What bytes are decides what they say: encodings that were not declared, or wrongly."""

import pytest

from raylm.core.errors import DataError
from raylm.data.sources.extract.encoding import decoded
from raylm.data.sources.extract.letters import readable

KOREAN = "대한민국의 수도는 서울이다. 서울은 한강을 끼고 발달한 도시로 인구가 약 천만 명에 이른다. 오늘은 날씨가 맑다."
CHINESE = "今天的会议讨论了城市交通与环境保护的问题，专家认为应该增加公共汽车线路，并且改善河流的水质。这不是一件容易的事情。"
TAIWANESE = "今天的會議討論了城市交通與環境保護的問題，專家認為應該增加公共汽車線路，並且改善河流的水質。這不是一件容易的事情。"
JAPANESE = "日本の首都は東京です。今日は天気がとても良くて、公園にはたくさんの人がいました。この本は日本の歴史を説明しています。"
RUSSIAN = "Привет, это обычная статья о погоде и природе в большой стране. Сегодня в городе хорошая погода, и люди гуляют."
GERMAN = "Heute ist das Wetter sehr schön, und viele Menschen gehen spazieren; größer und älter als früher – für 5 €."
FRENCH = "Aujourd’hui le temps est très beau et beaucoup de gens se promènent; il a été écrit où les élèves étaient."
POLISH = "Dziś pogoda jest bardzo ładna i wielu ludzi spaceruje po parku, książka opowiada o żółtych świętach."
TURKISH = "Bugün hava çok güzel ve parkta birçok insan yürüyor; kitap ülkenin başkentini ve ışığı anlatıyor."
TEXTS = {
    **dict.fromkeys(("cp949", "euc_kr"), KOREAN),
    **dict.fromkeys(("gb18030", "gbk"), CHINESE),
    "big5": TAIWANESE,
    **dict.fromkeys(("shift_jis", "euc_jp"), JAPANESE),
    **dict.fromkeys(("cp1251", "koi8_r", "iso8859_5", "cp866"), RUSSIAN),
    "cp1250": POLISH,
    "iso8859_9": TURKISH,
    "cp1252": FRENCH,
}


def page(text, codec, head=""):
    return f"<html><head>{head}<title>T</title></head><body><p>{text}</p></body></html>".encode(codec)


@pytest.mark.parametrize("codec", TEXTS)
@pytest.mark.parametrize("said", [None, "utf-8", "no-such-name"])
def test_what_was_not_declared_or_declared_as_utf_8_is_recognized_by_its_letters(codec, said):
    assert TEXTS[codec] in decoded(page(TEXTS[codec], codec), said)


@pytest.mark.parametrize("codec", ["cp949", "gb18030", "big5", "shift_jis", "euc_jp", "cp1251", "koi8_r"])
@pytest.mark.parametrize("said", ["iso-8859-1", "windows-1251", "gb2312", "euc-kr", "shift_jis", "koi8-r"])
def test_a_wrong_name_of_another_encoding_does_not_make_other_letters(codec, said):
    assert TEXTS[codec] in decoded(page(TEXTS[codec], codec), said)
    assert TEXTS[codec] in decoded(page(TEXTS[codec], codec, f'<meta charset="{said}">'))


def test_the_server_may_be_wrong_where_the_page_is_right_and_vice_versa():
    head = '<meta http-equiv="Content-Type" content="text/html; charset={}">'
    assert KOREAN in decoded(page(KOREAN, "cp949", head.format("euc-kr")), "utf-8")
    assert KOREAN in decoded(page(KOREAN, "cp949", head.format("utf-8")), "euc-kr")
    assert GERMAN in decoded(page(GERMAN, "utf-8", head.format("iso-8859-1")), "windows-1252")


def test_of_latin_letters_what_the_page_says_of_its_language_counts():
    hungarian = "Budapest Magyarország fővárosa. Ma nagyon szép idő van, és sok ember sétál; tükörfúrógép."
    text = f'<html lang="hu"><body>{hungarian}</body></html>'.encode("cp1250")
    assert hungarian in decoded(text, "iso-8859-1")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(codec):
    for text in (RUSSIAN, CHINESE, "plain"):
        assert text in decoded(page(text, codec)) and text in decoded(page(text, codec), "utf-8")
    # who says it of a page in another encoding
    assert RUSSIAN in decoded(page(RUSSIAN, "utf-8"), "utf-16")


def test_encodings_that_hide_in_ascii():
    assert JAPANESE in decoded(page(JAPANESE, "iso2022_jp"))
    assert KOREAN in decoded(page(KOREAN, "iso2022_kr"))
    assert CHINESE in decoded(page(CHINESE, "hz"), "hz-gb-2312")
    assert decoded(b"plain ~{ text", "utf-8") == "plain ~{ text"


def test_half_a_character_at_the_end_is_left_out():
    assert decoded(KOREAN.encode()[:-2], "utf-8") == KOREAN[:-2]
    assert decoded(("\ufeff" + KOREAN).encode("utf-16-le")[:-1], None) == KOREAN[:-1]


def test_little_text_is_read_as_it_was_declared():
    for text, codec, said in (
        ("안녕", "cp949", "euc-kr"),
        ("欢迎光临", "gbk", "gb2312"),
        ("歡迎光臨", "big5", "big5"),
        ("東京", "cp932", "shift_jis"),
        ("ВНИМАНИЕ ГРАЖДАНЕ", "cp1251", "windows-1251"),
        ("5 ± 2 µm at 20 °C × ½", "latin-1", "iso-8859-1"),
        ("ÉCOLE SUPÉRIEURE", "latin-1", "iso-8859-1"),
        ("© 2020 Foo", "latin-1", "utf-8"),
        ("• item – “q” it’s", "cp1252", None),
    ):
        assert text in decoded(page(text, codec), said)
    # accents and the letters behind them look like pairs
    assert GERMAN in decoded(page(GERMAN, "cp1252"), "gb2312")


def test_what_is_no_text_in_any_encoding_is_refused():
    draw = bytes((at * 73 + at // 7 * 31) % 256 | 128 for at in range(4000))
    broken = KOREAN.encode().replace("도시".encode(), b"\xeb\x8f")
    for data in (draw, broken, b"\xef\xbb\xbf\xff\xfe", b"ab\0\0cd\0\0" * 50 + b"\xff", "é café".encode() + b"<p>caf\xe9</p>"):
        with pytest.raises(DataError, match="undecodable"):
            decoded(data, None)


def test_letters_read_best_in_their_own_encoding():
    for codec, text in TEXTS.items():
        assert readable(text, codec) > 0.75
    assert readable(RUSSIAN.encode("koi8_r").decode("cp1251"), "cp1251") < 0.6
    assert readable(KOREAN.encode("cp949").decode("cp1252", "ignore"), "cp1252") < 0.4
    assert readable("plain", "cp1252") == 1
