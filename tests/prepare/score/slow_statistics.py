"""The statistics once more in plain Python, written from the published rules with strings, sets and regular expressions."""

import re
import unicodedata
from collections import Counter

from raylm.prepare.dedup.fuzzy.words import UNSPACED
from raylm.prepare.score.kernels.tables import STOP, tables

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
ENDS = (".", "?", "!", '"', "'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
NOTICES = (
    *POLICIES,
    *("privacy overview", "privacy & cookies policy", "privacy and cookies policy"),
    *("necessary cookies are absolutely essential", "cookies that may not be particularly necessary"),
    "without changing your cookie settings",
)
ELLIPSES = ("...", "[...]", "…", "(...)", "[…]", "-»", "read more..", "read more")
BULLETS = tuple("•‣⁃⁌⁍∙○●◘◦⦾⦿")  # noqa: RUF001
URL = re.compile(r"https?://(?:[A-Za-z0-9$\-_@.&+/:=?#~!*(),]|%[0-9A-Fa-f]{2})+")
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
CONTRACTION = re.compile(r"(?:n['’]t|['’](?:s|m|re|ve|ll))$", re.IGNORECASE | re.ASCII)  # noqa: RUF001
MARKS = re.compile(r"\.+|-+|.", re.DOTALL)


def lower(text):
    return "".join(char.lower() if char.isascii() else char for char in text)


def is_word(char):
    return unicodedata.category(char)[0] in "LMN"


def is_stop(char):
    return bool(tables().kinds[ord(char)] & STOP)


def split(text):
    """Words between white space; where scripts have none, each letter with what is no letter or digit behind it."""
    return [piece for word in text.split() for piece in _pieces(word)]


def _pieces(word):
    start = 0
    for at in range(1, len(word)):
        starts = word[at].isalpha() or unicodedata.category(word[at]) == "Nd"
        if is_single(word[at]) or (is_single(word[start]) and starts):
            yield word[start:at]
            start = at
    yield word[start:]


def is_single(char):
    return char.isalpha() and any(low <= ord(char) < high for low, high in (*UNSPACED, (0x20000, 0x40000)))


def tokens_of(text):
    return [token for word in split(text) for token in _tokens(word)]


def _tokens(word):
    places = [at for at, char in enumerate(word) if is_word(char)]
    if not places:
        return MARKS.findall(word)
    left, right = places[0], places[-1] + 1
    core = word[left:right]
    found = CONTRACTION.search(core)
    cut = found.start() if found and found.start() > 0 else len(core)
    inner = [core[:cut]] if "://" in core[:cut] else list(_infix(core[:cut]))
    return [*MARKS.findall(word[:left]), *inner, *([core[cut:]] if cut < len(core) else []), *MARKS.findall(word[right:])]


def _infix(core):
    start = at = 0
    while at < len(core):
        if is_word(core[at]):
            at += 1
            continue
        end = at + 1
        while end < len(core) and core[at] in ".-" and core[end] == core[at]:
            end += 1
        before, after = core[at - 1 : at], core[end : end + 1]
        mark = core[at]
        alphas = before.isalpha() and after.isalpha()
        parts = mark == "…" or (mark == "." and end - at > 1)
        parts = parts or (mark in "-\u2013\u2014~," and alphas)
        lower_upper = unicodedata.category(before or " ") == "Ll" and unicodedata.category(after or " ") == "Lu"
        parts = parts or (mark == "." and end - at == 1 and lower_upper)
        parts = parts or (mark in ":<>=/" and bool(before) and is_word(before) and after.isalpha())
        if parts and at > start:
            yield core[start:at]
            yield from MARKS.findall(core[at:end])
            start = end
        at = end
    if start < len(core):
        yield core[start:]


def repeated(items):
    """(how many stood before, their characters)."""
    seen, count, chars = set(), 0, 0
    for item in items:
        if item in seen:
            count, chars = count + 1, chars + len(item)
        seen.add(item)
    return count, chars


def share(part, whole, of_nothing=0.0):
    return part / whole if whole else of_nothing


def sentences_of(line):
    count, inside = 0, False
    for word in split(line):
        inside = inside or any(map(is_word, word))
        bare = word.rstrip("\"')]}’”»」）")  # noqa: RUF001
        # a closing quote or bracket that is a word of its own ends nothing
        if inside and bare and is_stop(bare[-1]):
            count, inside = count + 1, False
    return count + inside


def gopher(text):
    tokens, lines = tokens_of(text), text.splitlines()
    words = [token for token in tokens if any(map(is_word, token))]
    spaced = [word for word in words if not any(map(is_single, word))]
    made = {
        "num_words": len(words),
        "mean_word_chars": float("nan") if 2 * len(spaced) < len(words) else share(sum(map(len, spaced)), len(spaced)),
        "hash_word_ratio": share(text.count("#"), len(tokens)),
        "ellipsis_word_ratio": share(text.count("...") + text.count("…"), len(tokens)),
        "bullet_line_share": share(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "ellipsis_line_share": share(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "alpha_word_share": share(sum(any(map(str.isalpha, token)) for token in tokens), len(tokens)),
        "num_stop_words": len(STOP_WORDS & set(tokens)),
    }
    parts = {"paragraph": re.split(r"\n{2,}", text.strip()), "line": re.split(r"\n+", text) if text else []}
    for name, items in parts.items():
        count, chars = repeated(items)
        made[f"dup_{name}_share"], made[f"dup_{name}_char_share"] = share(count, len(items)), share(chars, len(text))
    for n in (2, 3, 4):
        grams = Counter(zip(*(tokens[k:] for k in range(n)), strict=False)).most_common(1)
        made[f"top_{n}gram_char_share"] = share(len(" ".join(grams[0][0])) * grams[0][1], len(text)) if grams else 0.0
    for n in range(5, 11):
        seen, chars, at = set(), 0, 0
        while at + n <= len(tokens):
            gram = tuple(tokens[at : at + n])
            chars += len("".join(gram)) if gram in seen else 0
            at += n if gram in seen else 1
            seen.add(gram)
        made[f"dup_{n}gram_char_share"] = share(chars, len(text))
    return made


def fineweb(text):
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "num_lines": len(lines),
        "end_punct_line_share": share(sum(is_stop(line[-1]) for line in lines), len(lines)),
        "short_line_share": share(sum(len(line) <= 30 for line in lines), len(lines)),
        "dup_text_line_char_share": share(repeated(lines)[1], len(text.replace("\n", ""))),
        "newline_word_ratio": share(text.count("\n"), len(tokens_of(text))),
    }


def c4(text):
    made: Counter = Counter()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        words, low, count = split(line), lower(line), sentences_of(line)
        made["num_sentences"] += count
        if any(len(word) > 1000 for word in words):
            made["c4_long_word_line_share"] += 1
            continue
        bare = CITATION.sub("", line)
        ended = bare.endswith(ENDS) and not bare.endswith("...")
        made["c4_open_line_share"] += not ended
        made["c4_short_line_share"] += ended and len(words) < 3
        if len(words) < 3:
            continue
        for prefix in ("c4_any_end_", "c4_")[: 1 + ended]:
            kept = False
            if "lorem ipsum" in low:
                made[f"{prefix}lorem_ipsum"] = 1
            if "javascript" in low:
                made[f"{prefix}javascript_line_share"] += 1
            else:
                if "{" in low:
                    made[f"{prefix}curly_bracket"] = 1
                policy = any(phrase in low for phrase in POLICIES)
                made[f"{prefix}policy_line_share"] += policy
                kept = not policy and "{" not in low and "lorem ipsum" not in low
            made[f"{prefix}kept_line_share"] += kept
            made[f"{prefix}num_sentences"] += count * kept
    names = ("c4_num_sentences", "c4_lorem_ipsum", "c4_curly_bracket", "c4_any_end_num_sentences", "c4_any_end_lorem_ipsum")
    whole = {name: made[name] for name in (*names, "c4_any_end_curly_bracket", "num_sentences")}
    reasons = ("kept", "long_word", "open", "short", "javascript", "policy")
    shares = {f"c4_{reason}_line_share": share(made[f"c4_{reason}_line_share"], len(lines)) for reason in reasons}
    return whole | shares | {"num_long_lines": sum(len(line) >= 200 for line in text.split("\n"))}


def nemo(text):
    words, chars = split(text), len(text)
    lines, blocks = [line for line in text.split("\n") if line.strip()], text.split("\n\n")
    symbols = sum(word in ELLIPSES or len(re.findall("#+", word)) / len(word) > 0.5 for word in words)
    lorem = "lorem ipsum" in lower(text)
    made = {
        "nemo_non_alphanumeric_share": share(chars - len(re.findall(r"[a-zA-Z0-9\n?!,.]", text)), chars, 1.0),
        "nemo_symbol_word_share": share(symbols, len(words)),
        "nemo_digit_share": share(sum(unicodedata.category(char) == "Nd" for char in text), chars, 1.0),
        "nemo_url_char_share": share(sum(map(len, URL.findall(text))), chars, 1.0),
        "nemo_white_space_share": share(sum(char in "\t\n\r\b " for char in text), chars, 1.0),
        "nemo_bracket_share": share(sum(char in "{}⟨⟩[]()" for char in text), chars, 1.0),
        "nemo_boilerplate_share": 1.0 if lorem else share(sum(any(n in lower(b) for n in NOTICES) for b in blocks), len(blocks)),
        "nemo_unique_line_share": 1 - share(repeated(lines)[0], len(lines)),
        "nemo_unique_paragraph_share": 1 - share(repeated(blocks)[0], len(blocks)),
        "nemo_unique_line_char_share": 1 - share(repeated(lines)[1], sum(map(len, lines))),
        "nemo_unique_paragraph_char_share": 1 - share(repeated(blocks)[1], sum(map(len, blocks))),
        "nemo_num_words": len(words),
        "nemo_open_line_share": share(sum(not line.strip().endswith(ENDS) for line in lines), len(lines)),
        "nemo_alpha_word_share": share(sum(any(map(str.isalpha, word)) for word in words), len(words)),
        "nemo_num_common_words": sum(word in STOP_WORDS for word in words),
        "nemo_mean_word_chars": share(sum(map(len, words)), len(words)),
        "nemo_longest_word_chars": max(map(len, words), default=0),
        "nemo_ellipsis_line_share": share(sum(lower(line.strip()).endswith(ELLIPSES) for line in lines), len(lines)),
        "nemo_bullet_line_share": share(sum(line.strip().startswith(BULLETS) for line in lines), len(lines)),
    }
    for n in (2, 3, 4):
        top = Counter(zip(*(words[k:] for k in range(n)), strict=False)).most_common(1)
        cut = len(text) - len(text.replace(_joined(words, text, top[0][0]), "")) if top else chars
        made[f"nemo_top_{n}gram_char_share"] = share(cut, chars, 1.0)
    for n in range(5, 11):
        made[f"nemo_dup_{n}gram_char_share"] = share(_covered(words, n), chars, 1.0) if len(words) >= n else 1.0
    return made


def _joined(words, text, gram):
    """An n-gram as its first place has it: a space between words, none between letters that are words."""
    first = next(at for at in range(len(words)) if tuple(words[at : at + len(gram)]) == gram)
    place, made = 0, ""
    for at, word in enumerate(words[: first + len(gram)]):
        start = text.index(word, place)
        if at >= first:
            made += (" " if at > first and start > place else "") + word
        place = start + len(word)
    return made


def _covered(words, n):
    """Words under an n-gram that stood before, and the spaces that a find adds: one less than n when it stands alone."""
    seen, total, last = set(), 0, -n
    for at in range(len(words) - n + 1):
        gram = tuple(words[at : at + n])
        if gram in seen:
            fresh = min(at - last, n)
            total += sum(map(len, gram[n - fresh :])) + min(fresh, n - 1)
            last = at
        seen.add(gram)
    return total


def slow_statistics(text):
    return {"num_chars": len(text)} | gopher(text) | fineweb(text) | c4(text) | nemo(text)
