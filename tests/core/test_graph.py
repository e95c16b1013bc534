"""The picture of a chain: every node below what it is made from, no boxes on each other, no line that another one says."""

from __future__ import annotations

import re

from raylm.core.graph import HIGH, WIDE, Node, draw

CHAIN = {
    "tokens": ["corpus"], "dialogues": ["questions", "tokens"], "pairs": ["questions", "tokens"], "base": ["tokens"],
    "sft": ["dialogues", "base"], "aligned": ["pairs", "sft"], "report": ["base", "sft", "aligned", "tokens"],
}  # fmt: skip
NAMES = ["corpus", "questions", *CHAIN]
EDGES = [(source, target) for target, sources in CHAIN.items() for source in sources]


def boxes(svg):
    drawn = re.findall(r'<title>(\w+): .*?<rect x="([-\d.]+)" y="(\d+)"', svg)
    return {name: (float(x), int(y)) for name, x, y in drawn}


def test_nodes_stand_below_what_they_are_made_from_and_apart():
    svg = draw([Node(name, "train", "done", f"#{name}") for name in NAMES], EDGES, "chain")
    at = boxes(svg)
    assert set(at) == set(NAMES) and all(at[target][1] > at[source][1] + HIGH for source, target in EDGES)
    for one in NAMES:
        for other in NAMES:
            assert one == other or at[one][1] != at[other][1] or abs(at[one][0] - at[other][0]) >= WIDE, (one, other)
    wide = float(re.search(r'viewBox="0 0 (\d+)', svg).group(1))
    assert all(x >= 0 and x + WIDE <= wide for x, _ in at.values())


def test_lines_that_others_imply_are_left_out():
    svg = draw([Node(name, "", "new", "#") for name in NAMES], EDGES, "chain")
    # report is aligned's, which is sft's, which is base's, which is tokens'
    assert svg.count("<path") == len(EDGES) - 3


def test_small_and_hostile_graphs():
    assert draw([], [], "nothing") == ""
    assert draw([Node("one", "", "new", "#")], [], "one").count("<rect") == 2
    svg = draw([Node("<b>&", '"quoted"', "new", '#"x')], [], "<caption>")
    assert "<b>" not in svg and "<caption>" not in svg and '#"x' not in svg
