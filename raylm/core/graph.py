"""A directed graph without circles as inline SVG, from top to bottom: each node below all that it is made from.

Edges that a longer way says too are left out. Layers are as late as possible: what feeds one node stands right above it. Edges
over several layers pass through places of their own; places of a layer are ordered by the mean of their neighbours (Sugiyama,
Tagawa, Toda 1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from raylm.core.page import escape

WIDE, HIGH, GAP, BETWEEN, LANE = 204, 46, 22, 32, 12
SWEEPS = 8


class Node(NamedTuple):
    """A box: its name, a line under it, a CSS class, and where a click goes."""

    name: str
    line: str
    kind: str
    href: str


class _Place(NamedTuple):
    """A node, or where a long edge passes a layer (`edge` is its number)."""

    name: str
    edge: int | None = None


def draw(nodes: Sequence[Node], edges: Sequence[tuple[str, str]], caption: str) -> str:
    """The picture; `edges` are (from, to) of names in `nodes`. An empty graph is an empty text."""
    if not nodes:
        return ""
    edges = _needed(edges)
    layers, chains = _layered([node.name for node in nodes], edges)
    above, below = _neighbours(chains)
    _order(layers, above, below)
    x = _positions(layers, above, below)
    left = min(x[place] - _width(place) / 2 for layer in layers for place in layer)
    right = max(x[place] + _width(place) / 2 for layer in layers for place in layer)
    top = {place: at * (HIGH + BETWEEN) for at, layer in enumerate(layers) for place in layer}
    wide, high = right - left + 4, len(layers) * (HIGH + BETWEEN) - BETWEEN + 4
    parts = [_edge(chain, x, top, left - 2) for chain in chains]
    parts += [_box(node, x[_Place(node.name)] - left + 2, top[_Place(node.name)] + 2) for node in nodes]
    return (
        f'<svg class="graph" viewBox="0 0 {wide:.0f} {high}" width="{wide:.0f}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg>"
    )


def _needed(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without edges that a longer way says too (the transitive reduction)."""
    below: dict[str, set[str]] = {}
    for source, target in edges:
        below.setdefault(source, set()).add(target)

    def reached(name: str) -> set[str]:
        found, waiting = set(), list(below.get(name, ()))
        while waiting:
            if (one := waiting.pop()) not in found:
                found.add(one)
                waiting += below.get(one, ())
        return found

    beyond = {name: set().union(*(reached(one) for one in targets)) for name, targets in below.items()}
    return [edge for edge in dict.fromkeys(edges) if edge[1] not in beyond[edge[0]]]


def _layered(names: list[str], edges: Sequence[tuple[str, str]]) -> tuple[list[list[_Place]], list[list[_Place]]]:
    """Layers from the top, and each edge as the places that it passes."""
    depth = dict.fromkeys(names, 0)
    for _ in names:
        for source, target in edges:
            depth[source] = max(depth[source], depth[target] + 1)
    deepest = max(depth.values())
    layer = {name: deepest - depth[name] for name in names}
    layers: list[list[_Place]] = [[] for _ in range(deepest + 1)]
    for name in names:
        layers[layer[name]].append(_Place(name))
    chains = []
    for number, (source, target) in enumerate(edges):
        passed = [_Place(f"{source} {target}", number) for _ in range(layer[source] + 1, layer[target])]
        passed = [place._replace(name=f"{place.name} {at}") for at, place in enumerate(passed)]
        for at, place in enumerate(passed, layer[source] + 1):
            layers[at].append(place)
        chains.append([_Place(source), *passed, _Place(target)])
    return layers, chains


def _neighbours(chains: list[list[_Place]]) -> tuple[dict[_Place, list[_Place]], dict[_Place, list[_Place]]]:
    above: dict[_Place, list[_Place]] = {}
    below: dict[_Place, list[_Place]] = {}
    for chain in chains:
        for upper, lower in pairwise(chain):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _order(layers: list[list[_Place]], above: dict, below: dict) -> None:
    """Sort each layer by the mean place of what it is joined to, down and up in turn."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        at = {place: index for layer in layers for index, place in enumerate(layer)}
        for layer in layers if down else reversed(layers):
            mean = {p: sum(at[n] for n in near[p]) / len(near[p]) if near.get(p) else at[p] for p in layer}
            layer.sort(key=lambda place: mean[place])
            at |= {place: index for index, place in enumerate(layer)}


def _positions(layers: list[list[_Place]], above: dict, below: dict) -> dict[_Place, float]:
    """The middle of each place: as near as order and widths let it to the middle of what it is joined to."""
    x: dict[_Place, float] = {}
    for layer in layers:
        x |= _spread(layer, dict.fromkeys(layer, 0.0))
    for sweep in range(2 * SWEEPS):
        near = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = {p: sum(x[n] for n in near[p]) / len(near[p]) if near.get(p) else x[p] for p in layer}
            x |= _spread(layer, wanted)
    return x


def _spread(layer: list[_Place], wanted: dict[_Place, float]) -> dict[_Place, float]:
    """Places in their order without overlap, on average where they want to be."""
    made: dict[_Place, float] = {}
    edge = float("-inf")
    for place in layer:
        half = _width(place) / 2
        made[place] = max(wanted[place], edge + half)
        edge = made[place] + half + GAP
    shift = sum(wanted[place] - made[place] for place in layer) / len(layer)
    return {place: value + shift for place, value in made.items()}


def _width(place: _Place) -> float:
    return WIDE if place.edge is None else LANE


def _edge(chain: list[_Place], x: dict[_Place, float], top: dict[_Place, int], left: float) -> str:
    """A line from the bottom of a box through its lanes to the top of another."""
    path = ""
    for upper, lower in pairwise(chain):
        x1, y1, x2, y2 = x[upper] - left, top[upper] + HIGH + 2, x[lower] - left, top[lower] + 2
        if upper.edge is not None:
            path += f"L{x1:.1f} {y1}"
        middle = (y1 + y2) / 2
        path += ("" if path else f"M{x1:.1f} {y1}") + f"C{x1:.1f} {middle} {x2:.1f} {middle} {x2:.1f} {y2}"
    return f'<path class="{"long" if len(chain) > 2 else "edge"}" d="{path}"/>'


def _box(node: Node, x: float, y: float) -> str:
    left = x - WIDE / 2
    return (
        f'<a href="{escape(node.href)}"><g class="{escape(node.kind)}"><title>{escape(node.name)}: {escape(node.line)}</title>'
        f'<rect x="{left:.1f}" y="{y}" width="{WIDE}" height="{HIGH}" rx="7"/>'
        f'<rect class="mark" x="{left:.1f}" y="{y}" width="5" height="{HIGH}" rx="2.5"/>'
        f'<text class="name" x="{left + 14:.1f}" y="{y + 19}">{escape(node.name, 21)}</text>'
        f'<text x="{left + 14:.1f}" y="{y + 35}">{escape(node.line, 33)}</text></g></a>'
    )
