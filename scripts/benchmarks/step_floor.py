"""What a training step of a perceptron cannot do without: its products, and the bytes that it must move.

    floor = its products alone + (gathers + gradients + weights + momentum) / bandwidth

Counted is what each step moves between memory and the cores whatever the code is like, as long as BLAS
multiplies whole arrays and every weight has momentum and weight decay (an entry is `itemsize` bytes):

    gathers     the kept part of each weight is read, and written as the operand of a product
    gradients   read by the update, as they are where it does not compute them itself, tile by tile; the
                product that writes them is among the products
    weights     read and written by the update
    momentum    the same

Activations are not counted: those of a batch stay in the cache. Nor is what a step does besides: drawing,
biases, activations, the loss. So it is a floor of such a step, not an estimate. The bandwidth is that of a
copy of as many bytes as the weights have, which may stay in the cache, too.
"""

from typing import NamedTuple

from bench_models import with_constant_weights

# isort: split
import numpy as np

import minidrop as md
from minidrop.kept import KeptByGroup
from minidrop.kernels import threads
from minidrop.patterns.draw import NOTHING, Units

COPY = "copy"       # as a method of bench_cpu.py


class Matrix(NamedTuple):
    """A weight of outputs x inputs, a bias of `outputs`, and what each group of samples keeps of it."""

    outputs: int
    inputs: int
    pieces: tuple       # (outputs, inputs) of each group


def bytes_moved(matrices, itemsize=4):
    """Return {"gathers", "gradients", "weights", "momentum": bytes} of a training step; see above."""
    moved = dict.fromkeys(("gathers", "gradients", "weights", "momentum"), 0)
    for whole in matrices:
        for rows, cols in whole.pieces:
            if rows * cols < whole.outputs * whole.inputs:
                moved["gathers"] += 2 * itemsize * rows * cols
            if rows < whole.outputs:
                moved["gathers"] += 2 * itemsize * rows
            moved["gradients"] += itemsize * (rows * cols + rows)
        both = 2 * itemsize * (whole.outputs * whole.inputs + whole.outputs)
        moved["weights"] += both
        moved["momentum"] += both
    return moved


def matrices_of(model, draws):
    """Return the Matrix of each product of a Perceptron; `draws`: those of its drops, in order.

    None where what a draw keeps is no set of units, for each group of samples or for all.
    """
    if not all(draw is NOTHING or isinstance(draw, Units) for draw in draws):
        return None
    ends = [[None], *([draw.kept] if not isinstance(draw.kept, KeptByGroup) else draw.kept.sets
                      for draw in draws), [None]]
    widths, found = (model.inputs, *model.sizes, model.classes), []
    for inputs, outputs, below, above in zip(widths, widths[1:], ends, ends[1:], strict=False):
        groups = max(len(below), len(above))
        below, above = (sets * groups if len(sets) == 1 else sets for sets in (list(below), list(above)))
        found.append(Matrix(outputs, inputs, tuple(
            (outputs if rows is None else rows.count, inputs if cols is None else cols.count)
            for rows, cols in zip(above, below, strict=True))))
    return found


def mean_bytes(model, method, rate, iterations=100):
    """Return `bytes_moved` by a method, the mean of so many iterations; None as for `matrices_of`."""
    net = md.Net(with_constant_weights(model.net(method, rate)), "TRAIN", "cpu", seed=0, fills=False)
    found = []
    for iteration in range(iterations):
        matrices = matrices_of(model, [site.draw(iteration) for site in net.drop_sites.values()]
                               or [NOTHING] * len(model.sizes))
        if matrices is None:
            return None
        found.append(bytes_moved(matrices))
    return {kernel: sum(moved[kernel] for moved in found) / iterations for kernel in found[0]}


class CopySteps:
    """Copies as many bytes as the weights of a model have, with the threads that its update has."""

    def __init__(self, model):
        widths = (model.inputs, *model.sizes, model.classes)
        size = sum((inputs + 1) * outputs for inputs, outputs in zip(widths, widths[1:], strict=False))
        self.source, self.target = np.ones(size, np.float32), np.zeros(size, np.float32)

    @property
    def bytes(self):
        """What a step moves: all is read, and written."""
        return 2 * self.source.nbytes

    def step(self):
        threads.by_rows(_copy_rows, self.source.size, self.source.size, self.source, self.target)
        return ""

    def weights(self):
        return {"": 1.0}


def _copy_rows(source, target, first, last):
    np.copyto(target[first:last], source[first:last])       # does not hold the GIL


def add_floor(results, moved, bandwidth):
    """Add to the figures of each method what it moves, at `bandwidth` bytes a second, and its floor.

    moved: {method: `mean_bytes`}. Those whose products were not timed alone have no floor.
    """
    for method, count in moved.items():
        own = results[method]
        own["gigabytes_per_second"] = bandwidth / 1e9
        if count is not None:
            own["bytes"] = count
            if "gemm_ms" in own:
                own["floor_ms"] = own["gemm_ms"] + 1e3 * sum(count.values()) / bandwidth
                own["of_floor"] = own["ms"] / own["floor_ms"]


def print_floor(results):
    """Print the bytes and times of all kernels of the methods that have a floor, and why others have none."""
    for method, own in results.items():
        if "gigabytes_per_second" not in own:       # a peer
            continue
        if "floor_ms" not in own:
            print(f"    {method}: no floor; its steps differ in their products, or drop no units")
            continue
        speed = own["gigabytes_per_second"]
        print(f"    {method}: kernel {'MiB':>9} {'ms':>9}   (a copy moves {speed:.1f} GB/s)")
        print_kernel("products", None, own["gemm_ms"])
        for kernel, count in own["bytes"].items():
            print_kernel(kernel, count, count / speed / 1e6)
        print_kernel("floor", sum(own["bytes"].values()), own["floor_ms"])
        print_kernel("step", None, own["ms"], f"   {own['of_floor']:.2f}x the floor")


def print_kernel(name, count, ms, more=""):
    """Print a line of the table."""
    mib = "" if count is None else f"{count / 2**20:.1f}"
    print(f"        {name:<12} {mib:>9} {ms:>9.2f}{more}", flush=True)
