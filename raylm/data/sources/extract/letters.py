# ruff: noqa: RUF001
"""How much a text reads like a language: whether its letters are frequent ones, and where letters belong.

Bytes read in a wrong encoding nearly always give characters, but rare ones, capitals inside words, or signs between letters.
"""

from __future__ import annotations

import re
import unicodedata

# characters beyond ASCII that are looked at
_MOST = 4000
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_RUN = re.compile("[^\x00-\x7f\u0131\u015f\u011f\u0130\u015e]{4}")
_WORD = re.compile(r"[^\W\d_]+")
# signs that stand in text of any language
_SIGNS = frozenset(
    "\u00a0«»“”„‘’‚–—…€£©®™°·•§¿¡½¼²³×÷±¶†‡‰¬¦¤¢¥¹¾´¨¸→←\u3000、。，：；！？（）「」『』【】《》〈〉・ー〜～％＂＇．／“”℃№"
)
_TYPOGRAPHY = "’‘“”„–—…・ー\u3000、。，"
_HANGUL = frozenset("이다는의에가을를한고하지은로기사도리자인스그서시대어나정아라일보해전부수상제들구여게과장으있안원습니까요것")
_HAN = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没"
    "日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二"
    "這來國個說們為時會過對後麼沒於還發當無開見經頭動兩長樣現將與進實問題條城市市東京第月"
)
_CYRILLIC = frozenset("оеаинтсрвлкмдпуязыьі")
_GREEK = frozenset("αοειτνσυρηκπςλμάίόέή")
_HEBREW = frozenset("יוהלאמרתבשנםחדקעפ")
_ARABIC = frozenset("اليموتنرةهبدفعسكحقأجوشىی")
_THAI = frozenset("านรอกเงมยลวดทส่้ตะิีัปหคบไแุจพชถขโ")
# lower-case letters beyond ASCII of the languages that an encoding was made for; capitals begin words
_LATIN = {
    "cp1252": frozenset("äöüßéèàâêîôûçëïùœæøåñáíóúãõìòðþýºª"),
    "cp1250": frozenset("ąćęłńśźżáčďéěíňóřšťúůýžőűöüäôľĺŕăâîşţđßç"),
    "cp1254": frozenset("ğışçöüâîûäéà"),
    "cp1258": frozenset("ăâđêôơưàéèóòùúíì"),
    "cp1257": frozenset("ąčęėįšųūžāēģīķļņõäöüé"),
}
# the encodings of Chinese and Korean have kana too, which their texts do not
_JAPANESE = ("cp932", "shift_jis", "euc_jp", "iso2022_jp", "utf-16-le", "utf-16-be")
_LATIN |= {
    "iso8859_9": _LATIN["cp1254"],
    "iso8859_2": _LATIN["cp1250"],
    "iso8859-2": _LATIN["cp1250"],
    "iso8859-13": _LATIN["cp1257"],
}


def readable(text: str, codec: str) -> float:
    """0 to 1: the share of characters beyond ASCII that are where and what they are in real text, by what is usual.

    Args:
        codec: of Latin letters, whose languages they should be of.
    """
    held = _head(text)
    expected = count = 0.0
    latin = _LATIN.get(codec, _LATIN["cp1252"])
    for word in _WORD.findall(held):
        wide = [char for char in word if char > "\x7f" and char.isalpha()]
        if wide:
            count += len(wide)
            expected += _expected(word, wide, latin, codec)
    letters = count
    for run in _FOREIGN.finditer(held):
        for at, char in enumerate(run[0], run.start()):
            if char.isalpha() or (char in _SIGNS and not _inside(held, at)):
                continue
            count += 1
            expected += _is_mark(held, at)
    return expected / count if count else (1.0 if not letters else 0.0)


def _is_mark(text: str, at: int) -> bool:
    """Whether it is a vowel sign of Thai, Hebrew or Arabic, or a tone mark, behind a letter: those are no letters."""
    char = text[at]
    if not ("\u0e30" <= char <= "\u0e4e" or "\u0591" <= char <= "\u0652" or "\u0300" <= char <= "\u036f"):
        return False
    first = next((of for of in range(at - 1, max(at - 5, -1), -1) if unicodedata.category(text[of]) != "Mn"), -1)
    return first >= 0 and text[first].isalpha() and (char < "\u0400" or text[first] > "\u0400")


def _expected(word: str, wide: list[str], latin: frozenset[str], codec: str) -> float:
    """How many of the wide letters of a word fit, by how frequent the script's frequent letters are in real text."""
    first = wide[0]
    if first < "\u0250" or "\u1e00" <= first < "\u1f00":
        # four in a row are in no word of a Latin alphabet (but Turkish); a capital stands in front
        if len(wide) > 3 and _RUN.search(word):
            return 0
        if wide == ["µ"]:
            return float(word[0] == "µ")  # of micrometres
        upper = word.isupper()
        fits = [char in latin or ((at == 0 or upper) and char.lower() in latin) for at, char in _placed(word)]
        return sum(fits) - sum(_misplaced(word, at, char) for at, char in _placed(word))
    if "\u0370" <= first < "\u1100" and len(wide) < len(word):
        return 0  # no word has letters of two alphabets
    if "\u0400" <= first < "\u0530":
        return _case(word) * _covered(wide, _CYRILLIC, 0.75)
    if "\u0370" <= first < "\u0400":
        return _case(word) * _covered(wide, _GREEK, 0.8)
    if "\u0590" <= first < "\u0600":
        return _covered(wide, _HEBREW, 0.85)
    if "\u0600" <= first < "\u0700":
        return _covered(wide, _ARABIC, 0.8)
    if "\u0e00" <= first < "\u0e80":
        return _covered(wide, _THAI, 0.8)
    if "\uac00" <= first < "\ud7a4":
        return _covered(wide, _HANGUL, 0.35)
    kana = 0.8 if codec in _JAPANESE else 0.0
    return sum(kana if "\u3041" <= char <= "\u30fe" else 2.5 * (char in _HAN) for char in wide)


def _misplaced(word: str, at: int, char: str) -> bool:
    """Letters of one language at the code of another language's in another encoding, recognized by their position."""
    return (char in "ìòù" and at < len(word) - 1) or (char == "þ" and at > 0)


def _placed(word: str) -> list[tuple[int, str]]:
    return [(at, char) for at, char in enumerate(word) if char > "\x7f" and char.isalpha()]


def _covered(wide: list[str], frequent: frozenset[str], usual: float) -> float:
    return sum(char.lower() in frequent for char in wide) / usual


def _case(word: str) -> float:
    """0 where capitals stand behind small letters."""
    return 1.0 if word[1:].islower() or len(word) == 1 else 0.6 if word.isupper() else 0.0


def _inside(text: str, at: int) -> bool:
    """Whether a sign stands between letters or other wide signs; apostrophes and dashes do."""
    around = text[max(at - 1, 0) : at] + text[at + 1 : at + 2]
    return text[at] not in _TYPOGRAPHY and len(around) == 2 and all(char.isalpha() or char > "\x7f" for char in around)


def _head(text: str) -> str:
    """As much of a text as holds the characters that are looked at."""
    seen = 0
    for run in _FOREIGN.finditer(text):
        seen += len(run[0])
        if seen >= _MOST:
            return text[: run.end()]
    return text
