"""Time each Numba kernel of the NumPy backend against its generic NumPy reference, in turn in one run.

    python scripts/benchmarks/bench_kernels.py [--json FILE]

One row a kernel: what minidrop/kernels/README.md gives as the reason that it exists.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import minidrop

# isort: split
import numpy as np

from minidrop.apps.timing import measure_steps
from minidrop.autograd import Block
from minidrop.backend import Backend, get_backend
from minidrop.backend.numpy import direct, pooling
from minidrop.backend.window import Window
from minidrop.kept import Kept, KeptByGroup


def cases(units=2048, rows=128):
    """Yield (kernel, what is timed, function of a backend)."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((units, units), np.float32)
    x = rng.standard_normal((rows, units), np.float32)
    kept = minidrop.Kept(0, 10, 5, units)
    history, g = np.zeros_like(W), rng.standard_normal((kept.count, kept.count), np.float32)
    yield "take_block", f"W {units}x{units}, 5 of 10 on both axes", lambda b: b.submatrix(W, kept, kept)
    yield "take_columns", f"x {rows}x{units}, 5 of 10", lambda b: b.take(x, kept, 1)
    y, part = np.zeros_like(x), rng.standard_normal((rows, kept.count), np.float32)
    yield ("put_columns", f"x {rows}x{kept.count} into {rows}x{units}, 5 of 10",
           lambda b: b.put_columns(y, kept, part))
    runs = minidrop.Kept(0, 128, 32, units)
    tile = rng.standard_normal((rows, runs.count), np.float32)
    yield "take_runs", f"W {units}x{units}, 32 of 128 on both axes", lambda b: b.submatrix(W, runs, runs)
    yield ("put_runs", f"x {rows}x{runs.count} into {rows}x{units}, 32 of 128",
           lambda b: b.put_columns(y, runs, tile))
    yield ("sgd_update", f"W {units}x{units}, gradient for 5 of 10 on both axes",
           lambda b: b.sgd_update(W, history, [Block(g, kept, kept)], 1e-6, 0.9, 5e-4, False, 1.0))
    yield ("subtract_block", f"W {units}x{units}, gradient for 5 of 10 on both axes",
           lambda b: b.sgd_update(W, history, [Block(g, kept, kept)], 1e-6, 0.0, 0.0, False, 1.0))
    total = np.zeros_like(W)
    yield ("add_block", f"W {units}x{units}, a gradient for 5 of 10 on both axes",
           lambda b: b.add_block(total, kept, kept, g))
    overlapping = [Block(g, kept, kept), Block(g, minidrop.Kept(2, 10, 5, units), kept)]
    yield ("row_norms", f"W {units}x{units}, two overlapping gradients for 5 of 10 on both axes",
           lambda b: b.norm_parts(W, overlapping))
    # Word numbers of a text: a few are common.
    ids = np.minimum(9999, rng.zipf(1.3, 2000) - 1)
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    vectors = rng.standard_normal((ids.size, 1000), np.float32)
    yield ("sum_groups", f"2000x1000, {starts.size} different indices",
           lambda b: b.sum_groups(vectors, order, starts))
    gates, c, dh, cont = (rng.standard_normal((20, columns), np.float32) for columns in (2600, 650, 650, 1))
    made = [np.empty_like(one) for one in (gates, c, c, c)]
    yield ("lstm_step", "20 streams, 650 units: a step",
           lambda b: b.lstm_step(gates, gates, c, cont, *made))
    yield ("lstm_gradient", "20 streams, 650 units: a step back",
           lambda b: b.lstm_step_gradient(gates, c, c, cont, dh, dh.copy(), np.empty_like(gates)))
    sums, bias = x.copy(), np.zeros_like(x[0])
    yield ("activate", f"x {rows}x{units}: bias, ReLU and scale, in place",
           # and no repetition makes it infinite
           lambda b: b.activate(sums, bias, "relu", 1 + 1e-6, out=sums))
    yield "squash", f"x {rows}x{units}: tanh", lambda b: b.activate(x, None, "tanh", 1)
    low, scores = -abs(x), np.empty_like(x)
    yield ("exponentials", f"x {rows}x{units}, and a copy",
           lambda b: (np.copyto(scores, low), b.exp_of_nonpositive(scores)))
    yield "relu", f"x {rows}x{units}", lambda b: b.relu(x)
    yield "add", f"x {rows}x{units}: a sum and its ReLU", lambda b: b.add(x, x, "relu")
    yield "relu_gradient", f"gy {rows}x{units}", lambda b: b.relu_gradient(x, x)
    yield "dropout", f"x {rows}x{units}, p = .5", lambda b: b.dropout(x, 0.5, 2.0, 7)
    yield ("dropout_tile", f"64 queries x {rows} keys of 16 heads, p = .5",
           lambda b: b.dropout_tile((16, 64, rows), 5, (rows * rows, rows), 0.5, 7))
    yield "gaussian", f"{rows}x{units} numbers of N(0, 1)", lambda b: b.gaussian(x.shape, x.dtype, 7)


def normalizations(images=16):
    """As `cases`, of the first normalization of AlexNet and of one of CIFAR-10's net, with fewer images."""
    rng = np.random.default_rng(1)
    x, gy = (rng.standard_normal((images, 96, 55, 55), np.float32) for _ in range(2))
    places, g = x.reshape(images, 96, -1), gy.reshape(images, 96, -1)
    factor, shift = np.full(96, 1.5, np.float32), np.full(96, 0.5, np.float32)
    what, small = f"x {images}x96x55x55", rng.standard_normal((images, 32, 32, 32), np.float32)
    yield "channel_moments", what, lambda b: b.channel_moments(places)
    yield "channel_products", what, lambda b: b.channel_products(places, g)
    yield ("transform_channels", f"{what}: factor and shift",
           lambda b: b.transform_channels(places, None, factor, shift))
    yield "standardize_channels", what, lambda b: b.standardize_channels(places, 1e-5)
    yield ("normalize_channels", f"{what}: ReLU",
           lambda b: b.normalize_channels(places, 1e-5, factor, shift, True))
    yield ("normalize_channels_gradient", f"{what}: ReLU",
           lambda b: b.normalize_channels_gradient(g, places, places, shift, factor, factor))
    yield "scale_gradients", what, lambda b: b.scale_gradients(g, places, factor)
    yield "standardize_gradient", what, lambda b: b.standardize_gradient(g, places, factor)
    alexnet, cifar = (5, 1e-4 / 5, 0.75, 1.0), (3, 5e-5 / 9, 0.75, 1.0)
    yield "lrn_across", f"{what}, 5 channels", lambda b: b.lrn(x, (1,), *alexnet)
    yield "lrn_across_gradient", f"{what}, 5 channels", lambda b: b.lrn_gradient(gy, x, (1,), *alexnet)
    what = f"x {images}x32x32x32, 3x3 places"
    yield "lrn_within", what, lambda b: b.lrn(small, (2, 3), *cifar)
    yield "lrn_within_gradient", what, lambda b: b.lrn_gradient(small, small, (2, 3), *cifar)


def windows(images=16):
    """As `cases`, of a convolution of 3x3, one of each channel alone, and pooling of 3x3 with steps of 2."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((images, 64, 32, 32), np.float32)
    W, b = rng.standard_normal((64, 64, 3, 3), np.float32), np.zeros(64, np.float32)
    window, out, gx = Window.of((3, 3), pad=1), np.empty_like(x), np.empty_like(x)
    what = f"x {images}x64x32x32, 3x3"
    each = np.ascontiguousarray(W[:, :1])
    for kernels, name, work in (
            (("gather_windows, put_outputs, swap_inner", "convolve_bands"), "to 64: forward",
             lambda on: on.convolve(x, W, b, window, out)),
            (("scatter_windows, output_rows", "weight_gradient"), "to 64: gradients",
             lambda on: on.convolve_gradients(x, W, out, window, gx)),
            (("convolve_planes", "convolve_bands"), "channels alone: forward",
             lambda on: on.convolve_each(x, each, window, out)),
            (("spread_planes", "convolve_bands"), "channels alone: images",
             lambda on: on.convolve_each_image_gradient(each, out, window, gx)),
            (("plane_weights", "each_weight_gradient"), "channels alone: weights",
             lambda on: on.convolve_each_weight_gradient(x, out, window))):
        yield kernels[0], f"{what}, {name}", partial(_without_vectors, work)
        yield kernels[1], f"{what}, {name}", work
    few = np.ascontiguousarray(W[:8])
    yield ("dot_weight_gradient", f"{what}, to 8: weights",
           lambda on: on.convolve_gradients(x, few, out[:, :8].copy(), window))
    kept, total = KeptByGroup([Kept(0, 4, 2, 64), Kept(2, 4, 2, 64)]), np.zeros_like(x)
    part, half = Backend().compact(x, kept, 1), f"x {images}x64x32x32, 2 of 4 channels in two groups"
    yield "take_of_channels", half, lambda on: on.compact(x, kept, 1)
    yield "put_of_channels", half, lambda on: on.expand(part, kept, 1)
    yield "add_to_channels", half, lambda on: on.add_kept(total, part, kept, 1, "relu")
    pool, places = Window.of((3, 3), 2), (16, 16)
    y, index = Backend().max_pool(x, pool, places)
    what = f"{what} / 2"
    for names, work in ((("max_planes", "max_lines"), lambda on: on.max_pool(x, pool, places)),
                        (("mean_planes", "mean_lines"), lambda on: on.mean_pool(x, pool, places))):
        yield names[0], what, partial(_without_vectors, work)
        yield names[1], what, work
    yield "add_at_places", what, lambda on: on.max_pool_gradient(y, index, pool, x.shape)
    yield "spread_means", what, lambda on: on.mean_pool_gradient(y, pool, x.shape)


def _without_vectors(work, on):
    """Do work(on) as on a machine without wide vectors."""
    suits, form = direct.suits, pooling._form
    direct.suits, pooling._form = (lambda *which: False), (lambda *which: ())
    try:
        work(on)
    finally:
        direct.suits, pooling._form = suits, form


def sequences(rows=4096, units=1024, heads=16):
    """As `cases`, of the steps of a transformer of that many units."""
    rng = np.random.default_rng(3)
    x, gy = (rng.standard_normal((rows, units), np.float32) for _ in range(2))
    weight, bias = np.full(units, 1.5, np.float32), np.full(units, 0.5, np.float32)
    what, eps = f"x {rows}x{units}", 1e-5
    _, mean, factor = Backend().normalize_rows(x, weight, bias, eps, True)
    yield "normalize_rows", what, lambda b: b.normalize_rows(x, weight, bias, eps, True)
    yield ("normalize_rows_gradient", what,
           lambda b: b.normalize_rows_gradient(gy, x, mean, factor, weight, True))
    yield "normal_gate", f"{what}: GELU and its derivative", lambda b: b.self_gate(x, "normal")
    yield "logistic_gate", f"{what}: SiLU and its derivative", lambda b: b.self_gate(x, "logistic")
    steps, half = rows // 32, units // heads // 2
    cosine, sine = (rng.standard_normal((steps, half), np.float32) for _ in range(2))
    sequence = x.reshape(steps, 32, units)
    yield "rotate", f"{what}, {heads} heads", lambda b: b.rotate(sequence, cosine, sine, heads)
    scores = rng.standard_normal((48, 64, 64), np.float32)
    again = np.empty_like(scores)
    yield ("shift_scores", "48 heads of 64x64 scores, causal: their exponentials and sums",
           lambda b: (np.copyto(again, scores), b.numerators(again, 1)))
    shift = rng.standard_normal((48, 64, 1), np.float32)
    yield ("score_gradient", "48 heads of 64x64 scores",
           lambda b: (np.copyto(again, scores), b.score_gradient(again, scores, shift, None, 0.2)))
    of_heads = tuple(rng.standard_normal((64, 48, 32), np.float32).transpose(1, 0, 2) for _ in range(5))
    tile = of_heads[:3], None, 1, None, (0.18, 1.0), shift.copy(), shift.copy(), of_heads[3]
    yield "attend", "48 heads of 32, 64x64 scores, causal", lambda b: b.attend(*tile)
    into = tuple(np.zeros_like(x) for x in tile[0])
    yield ("attend_gradient", "48 heads of 32, 64x64 scores, causal, made once more",
           lambda b: b.attend_gradient(*tile, of_heads[4], None, into, False, False))
    kept = KeptByGroup([Kept(0, 30, 15, units), Kept(15, 30, 15, units)])
    part, total = Backend().compact(sequence, kept, 2), np.zeros_like(sequence)
    what = f"{what}, 15 of 30 in two groups"
    yield "take_of_samples", what, lambda b: b.compact(sequence, kept, 2)
    yield "put_of_samples", what, lambda b: b.expand(part, kept, 2)
    yield "add_to_samples", what, lambda b: b.add_kept(total, part, kept, 2)


def thin_products(steps=35, streams=20, units=650):
    """As `cases`, of the state's products of an LSTM over a sequence, its weights packed for them."""
    rng = np.random.default_rng(4)
    W = rng.standard_normal((4 * units, units), np.float32)
    h, d = (rng.standard_normal((streams, columns), np.float32) for columns in (units, 4 * units))

    def products(backend, x, transpose):
        weights = backend.thin_operand(W, transpose, streams, steps)
        for _ in range(steps):
            backend.thin_gemm(x, weights, transpose)

    yield "pack, lead", f"{steps} times x {streams}x{units} W^T", lambda b: products(b, h, True)
    yield "pack, lead", f"{steps} times d {streams}x{4 * units} W", lambda b: products(b, d, False)


def group_products(units=2048, samples=64):
    """As `cases`, of one of two groups of samples; instead of NumPy the CPU's other products and kernels."""
    rng = np.random.default_rng(5)
    W, history = rng.standard_normal((units, units), np.float32), np.zeros((units, units), np.float32)
    kept = minidrop.Kept(0, 30, 15, units)
    x, gy = (rng.standard_normal((samples, kept.count), np.float32) for _ in range(2))
    on = get_backend("cpu")

    def update(backend):
        product = (on.late_product(gy, x, kept) if backend is on else None) or on.gemm(gy, x, trans_a=True)
        on.sgd_update(W, history, [Block(product, kept, kept)], 1e-6, 0.9, 5e-4, False, 1.0)

    yield "sgd_update_late", f"{samples} samples, W {units}x{units}, 15 of 30: gradient, update", update


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--repeat", type=int, default=60)
    options = parser.parse_args()
    backends = {"numpy": Backend(), "kernel": get_backend("cpu")}
    print(backends["kernel"].describe())
    print(f"{'kernel':<18} {'what':<52} {'NumPy ms':>9} {'kernel ms':>9} {'ratio':>6}")
    table = []
    for kernel, what, run in (*cases(), *normalizations(), *windows(), *sequences(), *thin_products(),
                              *group_products()):
        timings = measure_steps({name: partial(run, backend) for name, backend in backends.items()},
                                options.repeat, 3, 1)
        slow, fast = (1e3 * timing.median for timing in timings.values())
        print(f"{kernel:<18} {what:<52} {slow:9.3f} {fast:9.3f} {slow / fast:5.1f}x", flush=True)
        table.append({"kernel": kernel, "what": what, "numpy_ms": slow, "kernel_ms": fast})
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
