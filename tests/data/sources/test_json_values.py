"""Rows of files that are no JSON Lines, whatever the blocks that they are read in."""

import io
import json

import pytest

from raylm.data.sources import json_values
from raylm.data.sources.json_values import is_spread, values_in

ROWS = [
    {"text": 'a "quoted" \\ back {slash} [x]', "n": 1},
    {"text": "ü\n\t", "list": [1, [2, {"k": "]"}]]},
    {},
    "a string, with ] and }",
    -12.5e3,
    None,
    [1, "x"],
    {"text": "last"},
]


def _found(data, max_bytes=1 << 20):
    return [value for _, _, value in values_in(io.BytesIO(data), max_bytes)]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_elements_are_those_of_json(monkeypatch, block, indent):
    monkeypatch.setattr(json_values, "_BLOCK", block)
    for ascii_only in (True, False):
        data = b"\xef\xbb\xbf  " + json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only).encode() + b"\n"
        assert [json.loads(value) for value in _found(data)] == ROWS
        for start, end, value in values_in(io.BytesIO(data), 1 << 20):
            assert data[start:end] == value


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_a_long_row_is_never_held_and_what_is_cut_off_is_a_row(monkeypatch, block):
    monkeypatch.setattr(json_values, "_BLOCK", block)
    data = json.dumps([{"t": "x" * 100}, {"t": "y"}, {"t": "z" * 100 + '\\"'}, 5]).encode()
    assert _found(data, 50) == [None, b'{"t": "y"}', None, b"5"]
    assert _found(b'[{"a": 1}, {"b": "') == [b'{"a": 1}', b'{"b": "']
    assert _found(b'[{"a": 1},') == [b'{"a": 1}', b""]


def test_objects_one_after_the_other():
    assert _found(b'{"a": 1}{"b": 2}\n{\n"c": 3\n}, {"d": 4}[{"e": 5}]') == [
        b'{"a": 1}',
        b'{"b": 2}',
        b'{\n"c": 3\n}',
        b'{"d": 4}',
        b'{"e": 5}',
    ]


def test_which_files_are_no_lines():
    for head in (b"[", b" \n[\n{", b"\xef\xbb\xbf[{}]", b"{\n", b'{\n  "a": 1\n}', b'{"a":\n 1}', b'{"a": 1,\r\n "b": 2}'):
        assert is_spread(head) == (head != b"{\n")
    for head in (b"", b'{"a": 1}\n{"b": 2}', b'{"a": 1}', b'{"a": "cut of\n{"b": 2}\n', b"x\n[", b'{"a": 1}{"b": 2}\n'):
        assert not is_spread(head)
