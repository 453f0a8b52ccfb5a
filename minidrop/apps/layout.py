"""layered: places boxes in layers and routes the arrows between them (Sugiyama, Tagawa, Toda 1981)."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import NamedTuple

SWEEPS = 8
MOST_BENDS = 50_000             # of all arrows; beyond that, long ones go straight
_GAP, _LEVEL_GAP = 24.0, 34.0   # between neighbours, between layers
_LANE = 10.0                    # the width of a passing arrow
_STRAIGHT = 8.0                 # how much more a passing arrow pulls to be straight than a box does


class Placement(NamedTuple):
    """Centres of boxes, points of arrows, and the size of the whole."""

    centres: list[tuple[float, float]]
    routes: list[list[tuple[float, float]]]
    width: float
    height: float


@dataclass
class _Level:
    """One layer: its nodes from left to right, its extent."""

    nodes: list = field(default_factory=list)
    top: float = 0.0
    bottom: float = 0.0


def layered(sizes: list[tuple[float, float]], edges: list[tuple[int, int]],
            direction: str = "TB", label: float = 0.0) -> Placement:
    """Return the Placement of boxes (width, height) joined by edges (source, target) with source < target.

    A box stands one layer behind the last of those it follows. direction: where arrows point, TB (top to
    bottom), BT, LR or RL. An arrow begins and ends at the middle of a side, and crosses no box. label: the
    room along arrows that their widest label takes.
    """
    across = direction in ("LR", "RL")
    sizes = [(height, width) if across else (width, height) for width, height in sizes]
    levels, chains, widths, links = _levels(sizes, edges)
    _order(levels, links)
    centre = _coordinates(levels, widths, links)
    _stack(levels, [height for _, height in sizes], max(_LEVEL_GAP, label))
    at = {node: level for level in levels for node in level.nodes}
    left = min((centre[i] - size[0] / 2 for i, size in enumerate(sizes)), default=0.0)
    left = min([left, *centre]) - _GAP
    centre = [x - left for x in centre]
    width = max([x + widths[i] / 2 for i, x in enumerate(centre)], default=0.0) + _GAP
    height = (levels[-1].bottom if levels else 0.0) + _GAP

    def turned(x, y):
        x, y = (y, x) if across else (x, y)
        return (height - x if direction == "RL" else x), (height - y if direction == "BT" else y)

    centres = [turned(centre[i], (at[i].top + at[i].bottom) / 2) for i in range(len(sizes))]
    routes = [[turned(*point) for point in _route(chain, centre, at, sizes)] for chain in chains]
    return Placement(centres, routes, *((height, width) if across else (width, height)))


def _levels(sizes, edges):
    """Return (levels, the chain of nodes of each edge, width of each node, links): bends are nodes too."""
    rank = [0] * len(sizes)
    followers = [[] for _ in sizes]
    for source, target in edges:
        followers[source].append(target)
    leads = set(range(len(sizes)))
    for source, targets in enumerate(followers):
        for target in targets:
            rank[target] = max(rank[target], rank[source] + 1)
            leads.discard(target)
    for node in leads:          # what follows nothing stands close to what it feeds
        rank[node] = min((rank[target] for target in followers[node]), default=1) - 1
    levels = [_Level() for _ in range(max(rank, default=-1) + 1)]
    for node, level in enumerate(rank):
        levels[level].nodes.append(node)
    widths = [width for width, _ in sizes]
    bends = sum(max(0, rank[target] - rank[source] - 1) for source, target in edges)
    chains, links = [], []
    for source, target in edges:
        chain = [source]
        if bends <= MOST_BENDS:
            for level in range(rank[source] + 1, rank[target]):
                chain.append(len(widths))
                levels[level].nodes.append(len(widths))
                widths.append(_LANE)
        chain.append(target)
        chains.append(chain)
        links += zip(chain[:-1], chain[1:], strict=True)
    return levels, chains, widths, links


def _neighbours(links, count):
    above, below = [[] for _ in range(count)], [[] for _ in range(count)]
    for source, target in links:
        below[source].append(target)
        above[target].append(source)
    return above, below


def _order(levels, links):
    """Order the nodes of each level so that few links cross: each at the mean place of its neighbours."""
    count = sum(len(level.nodes) for level in levels)
    above, below = _neighbours(links, count)
    place = {node: i for level in levels for i, node in enumerate(level.nodes)}
    best, fewest = [list(level.nodes) for level in levels], _crossings(levels, below, place)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        near = below if sweep % 2 else above
        for level in reversed(levels) if sweep % 2 else levels:
            wanted = {node: (sum(place[other] for other in near[node]) / len(near[node])
                             if near[node] else place[node]) for node in level.nodes}
            level.nodes.sort(key=lambda node: (wanted[node], place[node]))
            place.update((node, i) for i, node in enumerate(level.nodes))
        crossings = _crossings(levels, below, place)
        if crossings < fewest:
            best, fewest = [list(level.nodes) for level in levels], crossings
    for level, nodes in zip(levels, best, strict=True):
        level.nodes = nodes


def _crossings(levels, below, place):
    count = 0
    for level in levels:
        ends: list[int] = []
        for node in level.nodes:
            targets = sorted(place[target] for target in below[node])
            count += sum(len(ends) - bisect_left(ends, target + 1) for target in targets)
            for target in targets:
                insort(ends, target)
    return count


def _coordinates(levels, widths, links):
    """Return the middle of each node across the levels: near the mean of its neighbours, without overlaps."""
    count = len(widths)
    above, below = _neighbours(links, count)
    bends = range(max((i for i, width in enumerate(widths) if width != _LANE), default=-1) + 1, count)
    centre = [0.0] * count
    for sweep in range(SWEEPS):
        near = [above, below, [a + b for a, b in zip(above, below, strict=True)]][min(sweep % 3, 2)]
        for level in reversed(levels) if sweep % 3 == 1 else levels:
            wanted, weights = [], []
            for node in level.nodes:
                pulls = [(centre[other], _STRAIGHT if node in bends and other in bends else 1.0)
                         for other in near[node]]
                total = sum(weight for _, weight in pulls)
                wanted.append(sum(x * weight for x, weight in pulls) / total if pulls else centre[node])
                weights.append(total or 0.1)
            for node, x in zip(level.nodes, _spread(level.nodes, wanted, weights, widths), strict=True):
                centre[node] = x
    return centre


def _spread(nodes, wanted, weights, widths):
    """Return the places closest to those wanted, in least squares, at which neighbours keep apart."""
    offsets, at = [], 0.0
    for before, node in zip([None, *nodes], nodes, strict=False):
        at += 0.0 if before is None else (widths[before] + widths[node]) / 2 + _GAP
        offsets.append(at)
    groups: list[list[float]] = []      # pool adjacent violators: [mean, weight, count]
    for x, weight, offset in zip(wanted, weights, offsets, strict=True):
        groups.append([x - offset, weight, 1])
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            mean, weight, count = groups.pop()
            total = groups[-1][1] + weight
            mean = (groups[-1][0] * groups[-1][1] + mean * weight) / total
            groups[-1] = [mean, total, groups[-1][2] + count]
    means = [group[0] for group in groups for _ in range(int(group[2]))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _stack(levels, heights, gap):
    """Give each level its extent, from the highest box in it."""
    y = _GAP
    for level in levels:
        level.top = y
        y += max((heights[node] for node in level.nodes if node < len(heights)), default=0.0)
        level.bottom = y
        y += gap


def _route(chain, centre, at, sizes):
    """Yield the points of an arrow: it passes the levels between straight on."""
    source, *bends, target = chain
    middle = (at[source].top + at[source].bottom) / 2
    yield centre[source], middle + sizes[source][1] / 2
    yield centre[source], at[source].bottom
    for bend in bends:
        yield centre[bend], at[bend].top
        yield centre[bend], at[bend].bottom
    middle = (at[target].top + at[target].bottom) / 2
    yield centre[target], at[target].top
    yield centre[target], middle - sizes[target][1] / 2
