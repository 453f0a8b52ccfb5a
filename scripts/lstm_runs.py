"""What reproduce_lstm.py is to run."""

from dataclasses import dataclass

POINTS = 20


def curve_points(iterations):
    """Return the number of points of a training's curve: of tests, and of snapshots to go on from."""
    return max(1, min(POINTS, iterations // 25))


@dataclass(frozen=True)
class Cell:
    """A model and a rate, its methods, the first of which is conventional dropout, and how it is trained."""

    part: str
    net: str
    rate: float
    methods: tuple
    text: str
    iterations: int


@dataclass(frozen=True)
class Selection:
    """What was asked for. `speed` and `run` give the key of a run: everything that defines it."""

    cells: tuple
    seeds: int
    blocks: int
    block_seconds: float

    @classmethod
    def of(cls, cells, texts, lengths, seeds, blocks, block_seconds):
        """Make one of (part, net, rate, methods), {net: text} and {net: iterations}."""
        return cls(tuple(Cell(part, net, rate, methods, texts[net], lengths[net])
                         for part, net, rate, methods in cells),
                   seeds, blocks, block_seconds)

    def speed(self, cell, method):
        return {"stage": "speed", "net": cell.net, "rate": cell.rate, "method": method, "blocks": self.blocks,
                "block_seconds": self.block_seconds}

    def run(self, cell, method, seed):
        return {"stage": "training", "net": cell.net, "rate": cell.rate, "method": method, "seed": seed,
                "text": cell.text, "iterations": cell.iterations}

    def runs(self):
        """Return the keys of all trainings. Methods stand side by side, so that seconds are of the same
        hour."""
        return [self.run(cell, method, seed) for cell in self.cells for seed in self.all_seeds
                for method in cell.methods]

    @property
    def all_seeds(self):
        return range(1, self.seeds + 1)
