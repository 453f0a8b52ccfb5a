"""Products with dropped blocks: the kernel, run on the host, against the generic method and against dense
masks."""

import numpy as np
import pytest
from cases import every_pair, in_turn
from products import block_linear, linear_grids

from minidrop.autograd import Parameter, Tensor
from minidrop.backend import Backend, get_backend
from minidrop.backend.device_sets import DeviceGrid
from minidrop.config import parse_net
from minidrop.errors import BackendError, CaptureError, ShapeError
from minidrop.functions.pieces import MultiplyBlocks
from minidrop.kernels import cuda, grids
from minidrop.net import Net
from minidrop.patterns.block import BlockPattern
from minidrop.patterns.grid import BlockGrid, BlockGroups
from minidrop.testing import assert_matches_masked_dense

GENERIC = Backend()
PRODUCTS = {"forward": (False, True), "input gradient": (False, False), "weight gradient": (True, False)}
TYPES = ("float32", "float64", "float16", "bfloat16")
products = pytest.mark.parametrize("product", PRODUCTS)
masks = in_turn("a_masked, n_masked", [(False, False), (True, False), (False, True), (True, True)])


def random_grid(samples, units, block_samples, block_units, rate=0.5, seed=0):
    shape = -(-samples // block_samples), -(-units // block_units)
    lives = np.random.default_rng([seed, samples, units]).random(shape) >= rate
    return BlockGrid(lives.astype(np.uint8), block_samples, block_units)


def rounded(x, kind):
    """Numbers as products of that precision read them, in float64."""
    if kind == "bfloat16":
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1))
                & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return x.astype(kind if kind == "float64" else np.float32).astype(kind).astype(np.float64)


def operands(trans_a, trans_b, samples, units, columns, seed=0):
    """a (samples, units) and b so that op(a) op(b) has `columns` columns."""
    rng = np.random.default_rng([1, seed])
    a = rng.standard_normal((samples, units))
    depth = samples if trans_a else units
    return a, rng.standard_normal((columns, depth) if trans_b else (depth, columns))


def expected(a, b, trans_a, trans_b, a_grid, n_grid, scale, bias):
    """In NumPy, with dense masks."""
    if a_grid is not None:
        a = a * a_grid.mask(*a.shape)
    if trans_a:
        if n_grid is not None:
            b = b * n_grid.mask(*b.shape)
        y = a.T @ b
    else:
        y = a @ (b.T if trans_b else b)
        if n_grid is not None:
            y *= n_grid.mask(*y.shape)
    return scale * y + (0 if bias is None else bias)


def check(backend, kind, product, samples, units, columns, a_grid=None, n_grid=None, scale=1.5,
          with_bias=True, arrange=None):
    trans_a, trans_b = PRODUCTS[product]
    dtype = "float64" if kind == "float64" else "float32"
    a, b = operands(trans_a, trans_b, samples, units, columns)
    bias = np.arange(columns) / 7 if with_bias else None
    want = expected(rounded(a, kind), rounded(b, kind), trans_a, trans_b, a_grid, n_grid, scale, bias)
    a, b = (x.astype(dtype) for x in (a, b))
    if arrange:
        a, b = arrange(a), arrange(b)
    got = backend.block_product(a, b, trans_a, trans_b, a_grid, n_grid, scale, None if bias is None
                                else bias.astype(dtype))
    assert got.dtype == dtype and got.shape == want.shape
    size = 1e-12 if kind == "float64" else 2e-6
    np.testing.assert_allclose(got, want, rtol=0, atol=size * max(1.0, np.abs(want).max(initial=0.0)) * 10)
    return got


# samples, units, columns, then the blocks of a and of n
SIZES = {
    "one number": ((1, 1, 1), (1, 1), (1, 1)),
    "tiles and steps": ((128, 96, 192), (64, 32), (64, 64)),
    "blocks of several tiles": ((256, 128, 128), (128, 64), (64, 128)),
    "cut off everywhere": ((131, 71, 77), (64, 32), (64, 64)),
    "narrow blocks": ((70, 100, 90), (64, 25), (64, 7)),
    "few samples": ((67, 64, 130), (3, 32), (5, 64)),
    "odd": ((45, 83, 59), (7, 9), (11, 13)),
    "one sample a block": ((9, 40, 70), (1, 40), (1, 70)),
    "one block": ((50, 60, 70), (1000, 1000), (1000, 1000)),
}


@masks
@every_pair(("kind", TYPES), ("product", list(PRODUCTS)), ("size", list(SIZES)))
def test_any_sizes(emulated_cuda, kind, product, size, a_masked, n_masked):
    (samples, units, columns), a_block, n_block = SIZES[size]
    a_grid = random_grid(samples, units, *a_block) if a_masked else None
    n_grid = random_grid(samples, columns, *n_block, seed=1) if n_masked else None
    backend = emulated_cuda(kind if kind != "float64" else "float32")
    check(backend, kind, product, samples, units, columns, a_grid, n_grid)


@products
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_generic_method(kind, product):
    a_grid, n_grid = random_grid(45, 83, 7, 9), random_grid(45, 59, 11, 13)
    check(GENERIC, kind, product, 45, 83, 59, a_grid, n_grid)


@products
@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=pytest.mark.full if kind == "float16" else ()) for kind in TYPES])
def test_large_tiles_and_any_memory(emulated_cuda, monkeypatch, kind, product):
    """Where blocks are whole tiles and there is enough to do; operands are parts of larger matrices."""
    monkeypatch.setattr(grids, "LEAST_TILES", dict.fromkeys(grids.LEAST_TILES, 0))
    backend = emulated_cuda(kind if kind != "float64" else "float32")
    a_grid, n_grid = random_grid(256, 256, 128, 128), random_grid(256, 256, 128, 128, seed=3)
    whole = check(backend, kind, product, 256, 256, 256, a_grid, n_grid)

    def part(x):
        wide = np.full((x.shape[0], x.shape[1] + 3), np.nan, x.dtype)[:, 1:-2]
        wide[...] = x
        return wide

    np.testing.assert_array_equal(check(backend, kind, product, 256, 256, 256, a_grid, n_grid, arrange=part),
                                  whole)
    check(backend, kind, product, 256, 256, 256, a_grid, n_grid, arrange=np.asfortranarray)
    used = [key for key in backend.kernels.libraries if key.startswith("block_products")]
    check(backend, kind, product, 256, 200, 192, random_grid(256, 200, 128, 64),
          random_grid(256, 192, 128, 64))
    check(backend, kind, product, 140, 200, 192)
    if "16" in kind:
        assert any("-128-128-" in key for key in used)
        assert any("-128-64-" in key for key in backend.kernels.libraries)


@products
def test_bfloat16_without_tensor_cores_for_it(emulated_cuda, emulation, product):
    """sm_75."""
    backend = emulated_cuda("bfloat16")
    backend.kernels = emulation.Emulator(lambda file, text: "#define WITHOUT_TENSOR_CORES\n" * (
        file == "block_products.cu") + text)
    check(backend, "bfloat16", product, 70, 100, 90, random_grid(70, 100, 64, 25),
          random_grid(70, 90, 64, 64))


@masks
@products
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_dead_blocks_are_never_read(emulated_cuda, kind, product, a_masked, n_masked):
    """They may hold anything."""
    backend, (trans_a, trans_b) = emulated_cuda(kind), PRODUCTS[product]
    for block in ((64, 32), (50, 9)):
        a_grid = random_grid(100, 80, *block) if a_masked else None
        n_grid = random_grid(100, 70, *block, seed=1) if n_masked else None
        a, b = (x.astype(np.float32) for x in operands(trans_a, trans_b, 100, 80, 70))
        clean = backend.block_product(a, b, trans_a, trans_b, a_grid, n_grid)
        if a_grid is not None:
            a[~a_grid.mask(100, 80)] = np.nan
        if n_grid is not None and trans_a:
            b[~n_grid.mask(100, 70)] = np.nan
        np.testing.assert_array_equal(backend.block_product(a, b, trans_a, trans_b, a_grid, n_grid), clean)
        assert np.isfinite(clean).all()


@pytest.mark.parametrize("line, instead", [
    ("    __syncthreads();    // this stage", "    if (!done) __syncthreads();    // this stage"),
    ("end_of_block(k, TRANS_A ? a_samples : a_units)", "depth"),
    ("until = min(until, end_of_block(k, n_samples));", ""),
    ("!lives[block[j][e]]", "!lives[block[j][0]]"),
    ("lane % 16, k / 8 + lane / 16)", "lane % 16, k / 8 + lane / 8 % 2)"),
    ("(n + 16 * j) / 8 + lane / 16)", "(n + 16 * j) / 8)"),
    ("&right[j / 2][j % 2 * 2]", "&right[j / 2][0]"),
    ("fill = fill + 1 < STAGES ? fill + 1 : 0;", "fill = 0;"),
    ("!mask.at(r, left)", "!mask.at(r, columns - 1)"),
    ("same_block(top, bottom, a_samples)", "true"),
    ("b_vectors && b_whole", "b_vectors"),
], ids=lambda text: text.strip()[:40])
def test_a_broken_kernel_is_seen(emulated_cuda, emulation, line, instead):
    """One change to the kernel, and the comparison fails."""
    def change(file, text):
        assert file != "block_products.cu" or line in text, "block_products.cu has changed: change this too"
        return text.replace(line, instead)

    def compare(kind, *sizes):
        backend = emulated_cuda(kind)
        backend.kernels = emulator
        for product in PRODUCTS:
            check(backend, kind, product, *sizes)

    emulator = emulation.Emulator(change)
    with pytest.raises(AssertionError, match="Not equal"):
        for kind in ("bfloat16", "float32"):        # threads wait for each other more often where there are
                                                    # tensor cores
            compare(kind, 131, 331, 77, random_grid(131, 331, 64, 32), random_grid(131, 77, 64, 64, seed=5))
            compare(kind, 330, 64, 128, random_grid(330, 64, 128, 64), random_grid(330, 128, 32, 64))
            compare(kind, 96, 64, 64, random_grid(96, 64, 40, 32, seed=2), random_grid(96, 64, 40, 9))
            compare(kind, 128, 96, 128)


def test_what_lives_may_change_in_device_memory(emulated_cuda):
    """As between two launches of a captured step; no other argument differs."""
    backend = emulated_cuda("bfloat16")
    a, b = (x.astype(np.float32) for x in operands(False, True, 100, 80, 70))
    memory = np.zeros((2, 3), np.uint8)
    moving = DeviceGrid(memory, 64, 32)
    for seed in range(3):
        grid = random_grid(100, 80, 64, 32, seed=seed)
        memory[...] = grid.lives
        np.testing.assert_array_equal(backend.block_product(a, b, False, True, moving),
                                      backend.block_product(a, b, False, True, grid))
        np.testing.assert_array_equal(backend.multiply_blocks(a[:, :, None], moving, 2.0),
                                      (a * np.float32(2) * grid.mask(100, 80))[:, :, None])


@pytest.mark.parametrize("grid", [None, BlockGrid(np.ones((0, 3), np.uint8), 4, 2)])
@pytest.mark.parametrize("on", ["generic", "emulated"])
def test_nothing_to_multiply(emulated_cuda, grid, on):
    backend = emulated_cuda("bfloat16") if on == "emulated" else GENERIC
    bias = np.arange(7, dtype=np.float32)
    x, W = np.zeros((0, 5), np.float32), np.ones((7, 5), np.float32)
    assert backend.block_product(x, W, False, True, grid, None, 2.0, bias).shape == (0, 7)
    assert (backend.block_product(x, np.zeros((0, 7), np.float32), True, False,
                                  grid) == np.zeros((5, 7))).all()
    empty = [np.zeros((n, 0), np.float32) for n in (3, 7)]
    np.testing.assert_array_equal(backend.block_product(*empty, False, True, None, None, 2.0, bias),
                                  np.tile(bias, (3, 1)))


@pytest.mark.parametrize("on", ["generic", "emulated"])
def test_what_does_not_fit_is_refused(emulated_cuda, on):
    backend = emulated_cuda("bfloat16") if on == "emulated" else GENERIC
    x, W = np.zeros((9, 5), np.float32), np.zeros((7, 5), np.float32)
    with pytest.raises(ShapeError,
                       match=r"^block_product: a \(9, 5\) times b \(7, 5\) has incompatible shapes$"):
        backend.block_product(x, W)
    with pytest.raises(ShapeError,
                       match=r"^block_product: a \(9, 5\) transposed times b \(7, 9\) transposed is not "
                       r"supported$"):
        backend.block_product(x, np.zeros((7, 9), np.float32), True, True)
    with pytest.raises(ShapeError,
                       match=r"^blocks of 4 x 2 of activations \(9, 5\) need a grid of 3 x 3, got 2 x 3$"):
        backend.block_product(x, W, False, True, random_grid(8, 5, 4, 2))
    with pytest.raises(ShapeError,
                       match=r"^blocks of 4 x 2 of activations \(9, 7\) need a grid of 3 x 4, got 3 x 3$"):
        backend.block_product(x, W, False, True, None, random_grid(9, 5, 4, 2))


def test_too_long_for_32_bits(emulated_cuda):
    wide = np.broadcast_to(np.float32(0), (1, 2**30 + 1))
    with pytest.raises(BackendError,
                       match=r"^block_product: the GPU kernels take axes of up to .* is longer$"):
        emulated_cuda("bfloat16").block_product(wide, wide, False, True)


# -- the function --------------------------------------------------------------------------------------------
PATTERN = BlockPattern(0.5, 2.0, 3, 4, 5, drops="blocks")


def gradients(backend, function, *arrays):
    tensors = [Tensor(arrays[0], True, backend), *(Parameter(array.copy(), backend) for array in arrays[1:])]
    y = function(*tensors)
    y.backward(np.cos(np.arange(y.data.size)).reshape(y.data.shape).astype(y.dtype))
    return [y.numpy(), *(tensor.grad for tensor in tensors)]


@in_turn("transpose", [False, True])
@in_turn("bias", [False, True])
@in_turn("outs, ins", [(True, False), (False, True), (True, True)])
def test_the_function_equals_the_one_in_pieces(emulated_cuda, transpose, bias, outs, ins):
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((3, 6, 23)), rng.standard_normal((23, 31) if transpose else (31, 23))
    arrays = [x, W, rng.standard_normal(31)] if bias else [x, W]
    groups = [PATTERN.groups(18, 31) if outs else None, PATTERN.groups(18, 23) if ins else None]
    grids = [None if one is None else one.grid for one in groups]
    in_pieces = gradients(emulated_cuda(), lambda x, W,
                          b=None: block_linear(x, W, b, *groups, transpose), *arrays)
    for backend in (emulated_cuda(), GENERIC):
        skipping = gradients(backend, lambda x, W, b=None: linear_grids(x, W, b, *grids, transpose),
                             *arrays)
        for got, want in zip(skipping, in_pieces, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("precision, dtype, skips",
                         [("float32", "float32", False), ("tf32", "float32", False),
                                                     ("float16", "float32", True),
                          ("bfloat16", "float32", True),
                                                     ("bfloat16", "float64", False)])
def test_who_skips_and_who_gathers(emulated_cuda, precision, dtype, skips):
    """By device and precision alone, so that a captured step does what the others do, or refuses."""
    backend = emulated_cuda(precision)
    x, W = (Tensor(np.ones(shape, dtype), True, backend) for shape in ((18, 23), (31, 23)))
    for groups, grid in ((PATTERN.groups(18, 23), True), (tuple(PATTERN.groups(18, 23)), False)):
        backend.kernels.launches.clear()
        y = block_linear(x, W, None, None, groups)
        y.backward(np.ones_like(y.data))
        assert backend.kernels.launches.count("block_product") == 3 * (skips and grid)
    backend.capturing = True
    grid = PATTERN.grid(18, 23)
    moving = BlockGroups(DeviceGrid(np.ones((5, 5), np.uint8), *grid.block_shape), 18, 23)
    if skips:
        np.testing.assert_array_equal(block_linear(x, W, None, None, moving).data, np.full((18, 31), 23))
        with pytest.raises(CaptureError, match="^which blocks live is drawn on the host"):
            block_linear(x, W, None, None, PATTERN.groups(18, 23))
    else:
        with pytest.raises(CaptureError, match=f"multiplies dropped blocks of {dtype} in pieces, which are "
                           f"others in every "):
            block_linear(x, W, None, None, moving)


def test_one_upload_serves_all_readers(emulated_cuda, monkeypatch):
    backend = emulated_cuda("bfloat16")
    backend.kernels.launches.clear()
    uploads = []
    monkeypatch.setattr(backend, "asarray", lambda x, dtype=None: uploads.append(x) or np.asarray(x, dtype))
    x, W = Tensor(np.ones((18, 23), np.float32), True, backend), Tensor(np.ones((31, 23), np.float32), True,
                                                                        backend)
    x = MultiplyBlocks(PATTERN.groups(18, 23), 2.0, 1).apply(x)
    y = block_linear(x, W, None, None, PATTERN.groups(18, 23))
    y.backward(np.ones_like(y.data))
    assert [upload is PATTERN.grid(18, 23).lives for upload in uploads if upload.dtype == np.uint8] == [True]
    assert [backend.kernels.launches.count(name) for name in ("multiply_blocks", "block_product")] == [2, 3]


NET = """
layer {{ name: "in" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 6 dim: 40 }} shape {{ dim: 6 }} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param {{ num_output: 70 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1" approx_dropout_param {{ {first} }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param {{ num_output: 65 transpose: true weight_filler {{ type: "msra" }} }} }}
layer {{ name: "drop2" type: "ApproxDropout" bottom: "ip2" top: "ip2" approx_dropout_param {{ {second} }} }}
layer {{ name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3"
        inner_product_param {{ num_output: 7 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }}
"""


@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 0.7, 0.9])
def test_a_net_that_skips_equals_the_masked_dense_one(emulated_cuda, rate):
    """In float64, where it would gather, made to skip."""
    backend = emulated_cuda()
    backend.block_products = lambda dtype: True
    settings = f'pattern: "BLOCK" dropout_ratio: {rate}'
    text = NET.format(first=f"{settings} block_samples: 4", second=f"{settings} block_samples: 2 "
                      f"block_units: 3")
    net = Net(parse_net(text), device=backend, dtype="float64")
    rng = np.random.default_rng(0)
    inputs = {"data": rng.standard_normal((6, 40)), "label": rng.integers(0, 7, 6)}
    backend.kernels.launches.clear()
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, inputs)
    assert backend.kernels.launches.count("block_product") == (4 * 9 if rate else 0)


def test_the_cpu_gathers():
    cpu = get_backend("cpu")
    assert not cpu.block_products(np.float32) and not cpu.reads_grids


def test_tiles_of_a_product():
    assert grids.tile_of_product(1024, 1024) == (128, 64)
    assert grids.tile_of_product(2048, 2048) == (128, 128)
    assert grids.tile_of_product(2048, 2048, (128,), (64,)) == (128, 64)
    assert grids.tile_of_product(2048, 2048, (64,), (128,)) == (64, 64)
    assert grids.tile_of_product(128, 1024) == (64, 64)
    assert grids.product(130, 65, 128, 64) == ((4, 1), (128, 1))
    assert all(cuda.block_product.fits(macros) for macros in cuda.block_product.variants())
    assert len(cuda.block_product.variants()) == 2 * 3 + 2 * 3 * 3
