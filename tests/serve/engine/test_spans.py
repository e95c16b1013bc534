"""Which weights made which tokens: told in a stream, in a header, and in the audit log."""

from __future__ import annotations

from raylm.serve.engine.spans import Mark, comment_of, header_of, marks_in, marks_of, spans_of, without_comments

ONE = Mark("bbb", ((0, 22), (1, 25)))
TWO = Mark("ccc", ((0, 40),))


def test_a_header_is_read_as_it_was_written():
    assert header_of([ONE, TWO]) == "bbb 0:22,1:25; ccc 0:40"
    assert marks_of(header_of([ONE, TWO])) == (ONE, TWO)
    assert marks_of(header_of([Mark("ddd", ())])) == (Mark("ddd", ()),)
    assert marks_of(None) == () == marks_of("no mark at all; 0:1") == marks_of("x 1:y")


def test_a_comment_is_found_and_cut_out():
    chunk = b'data: {"a": 1}\n\n' + comment_of(ONE) + b'data: {"b": ": raylm-spans x 0:1"}\n\n'
    assert marks_in(chunk) == (ONE,)
    assert without_comments(chunk) == b'data: {"a": 1}\n\ndata: {"b": ": raylm-spans x 0:1"}\n\n'


def test_spans_of_each_choice():
    assert spans_of("aaa", [ONE, TWO]) == [
        (0, "aaa", 0, 22),
        (0, "bbb", 22, 40),
        (0, "ccc", 40, None),
        (1, "aaa", 0, 25),
        (1, "bbb", 25, None),
    ]
    assert spans_of("aaa", []) == [(0, "aaa", 0, None)]
    # that they changed is known, not where
    assert spans_of("aaa", [Mark("bbb", ())]) == [(0, "aaa", 0, None), (0, "bbb", None, None)]
