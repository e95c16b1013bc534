"""Pages: hostile text stays text, numbers stand to the right with separators, charts hold what they were given."""

import re

from raylm.core import page

EVIL = "<script>alert(1)</script>\"'&"


def test_nothing_that_is_given_becomes_html():
    said = {EVIL: EVIL, "counts": {EVIL: 3}, "records": [{EVIL: EVIL}], "groups": {EVIL: {EVIL: 1}}, "list": [EVIL]}
    parts = [
        page.tiles([(EVIL, EVIL)]),
        page.table([EVIL], [[EVIL]]),
        page.bars([(EVIL, 1)], 2),
        page.funnel(3, [(EVIL, 1)], EVIL, EVIL),
        page.columns([(EVIL, 1.0)], EVIL),
        page.text(EVIL),
        page.beside(EVIL, f"{EVIL} more", (EVIL, EVIL)),
        page.note(EVIL),
        page.tokens([(EVIL, True)]),
        page.heading(EVIL),
        page.fold(EVIL, page.text(EVIL)),
        page.picture(b"", EVIL),
        page.facts(said),
    ]
    whole = page.page(EVIL, EVIL, [(EVIL, part) for part in parts])
    assert "<script" not in whole and "alert(1)" in whole and "\"'&" not in whole
    assert whole.count("<style>") == 1 and "default-src 'none'" in whole and not re.search(r'(src|href)="(?!data:)', whole)
    page.page("\udcff", "", []).encode()


def test_numbers_shares_and_sizes():
    assert [page.number(value) for value in (1234567, 0.12345, 12345.6, None, "x", True)] == [
        "1,234,567", "0.1235", "12,346", "-", "x", "True"
    ]  # fmt: skip
    assert (page.share(1, 8), page.share(1, 0)) == ("12.5%", "-")
    assert [page.size(count) for count in (999, 1500, 2_000_000, 3e15)] == ["999 B", "1.5 kB", "2.0 MB", "3,000.0 TB"]


def test_columns_of_numbers_stand_to_the_right():
    made = page.table(["name", "count"], [["a", 1234], ["b", None]])
    assert '<td>a</td><td class="n">1,234</td>' in made and '<td>b</td><td class="n">-</td>' in made
    assert page.table(["name"], []) == ""


def test_a_funnel_narrows_by_what_is_lost():
    made = page.funnel(100, [("short", 30), ("twice", 20)], "in", "out")
    assert re.findall(r'class="(\w*)" style="width:([\d.]+)%', made) == [
        ("", "100.000"), ("", "70.000"), ("gone", "30.000"), ("", "50.000"), ("gone", "20.000"), ("", "50.000")
    ]  # fmt: skip
    assert re.findall(r'<td class="n">([^<]*)</td>', made) == ["100", "", "-30", "-30.0%", "-20", "-20.0%", "50", "50.0%"]


def test_words_of_one_side_only_are_marked():
    made = page.beside("the same old words", "the same new words", ("a", "b"))
    assert re.findall("<mark>(.*?)</mark>", made) == ["old", "new"]


def test_long_values_are_cut():
    assert len(page.text("x" * 10**6)) < 1000 and len(page.table(["a"], [["x" * 10**6]])) < 1000
    assert page.facts({"counts": {str(at): at for at in range(1000)}}).count("<tr>") == 50
