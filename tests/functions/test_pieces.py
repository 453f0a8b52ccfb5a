"""Products in pieces: how they are cut, against PyTorch with masks, what they cost, and what is refused."""

import numpy as np
import pytest
from cases import in_turn
from products import linear_pieces

from minidrop import Kept, Parameter, ShapeError, Tensor, functions
from minidrop.autograd import Blocks
from minidrop.backend import NumpyBackend
from minidrop.functions.pieces import (
    MultiplyBlocks,
    Piece,
    _scatter,
    _views,
    block_pieces,
    gathered,
    tile_pieces,
)
from minidrop.patterns import DropSite, PatternSettings
from minidrop.patterns.tile import TilePattern

A, B, C = Kept.of([0, 3], 5), Kept.of([1], 5), Kept.of([2, 4], 5)
P, Q = Kept(0, 2, 1, 4), Kept.of([], 4)
OUTPUT_GROUPS = [(0, 2, A), (2, 4, B), (4, 6, C)]


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


def tile_pattern(period, offset, size):
    return TilePattern(1 - 1 / period, float(period), period, offset, size, drops="weights")


class TestRanges:
    """Rows of a pattern: what is gathered and scattered, and in how many passes."""

    @in_turn("ranges, passes", [
        ([(0, 3)], 1), ([(0, 2), (4, 6), (8, 10)], 1), ([(2, 4), (6, 8), (10, 12)], 1),
        ([(1, 3), (5, 7), (9, 11)], 1), ([(0, 4), (8, 12)], 2), ([(0, 1), (4, 6), (8, 10)], 2),
        ([(3, 5), (7, 9), (11, 12)], 3), ([(0, 2), (4, 6), (7, 9), (10, 12)], 2), ([(8, 10), (0, 2)], 2),
        ([(2, 2), (5, 7)], 2)])
    def test_ranges_at_one_distance_are_one_view(self, ranges, passes):
        x, backend = numbers(12, 5), NumpyBackend()
        rows = np.concatenate([np.arange(first, last) for first, last in ranges])
        assert len(_views(x, ranges)) == passes
        for kept in (None, Kept.all(5), A, Kept(1, 2, 1, 5), Kept.of([], 5)):
            columns = np.arange(5) if kept is None else kept.indices
            found = gathered(backend, x, ranges, kept)
            np.testing.assert_array_equal(found, x[np.ix_(rows, columns)])
            out, expected = numbers(12, 5, seed=1), numbers(12, 5, seed=1)
            expected[np.ix_(rows, columns)] = found
            _scatter(backend, out, ranges, kept, np.ascontiguousarray(found))
            np.testing.assert_array_equal(out, expected)


class TestHowAProductIsCut:
    def test_one_side(self):
        assert block_pieces(6, 5, 4, OUTPUT_GROUPS) == [(0, 2, A, Kept.all(4)), (2, 4, B, Kept.all(4)),
                                                        (4, 6, C, Kept.all(4))]
        assert block_pieces(6, 5, 4, None, [(0, 4, P), (4, 6, Q)]) == [(0, 4, Kept.all(5), P),
                                                                       (4, 6, Kept.all(5), Q)]

    def test_both_sides_at_the_same_places(self):
        assert block_pieces(6, 5, 4, OUTPUT_GROUPS, [(0, 2, P), (2, 4, Q), (4, 6, P)]) == [
            (0, 2, A, P), (2, 4, B, Q), (4, 6, C, P)]

    def test_both_sides_at_multiples(self):
        assert block_pieces(6, 5, 4, OUTPUT_GROUPS,
                            [(0, 4, P), (4, 6, Q)]) == [(0, 2, A, P), (2, 4, B, P), (4, 6, C, Q)]

    def test_both_sides_anywhere(self):
        assert block_pieces(6, 5, 4, OUTPUT_GROUPS, [(0, 3, P), (3, 6, Q)]) == [
            (0, 2, A, P), (2, 3, B, P), (3, 4, B, Q), (4, 6, C, Q)]

    def test_no_side(self):
        assert block_pieces(6, 5, 4) == [(0, 6, Kept.all(5), Kept.all(4))]
        assert block_pieces(0, 5, 4, (), ()) == []

    def test_the_groups_are_left_as_they_were(self):
        groups = list(OUTPUT_GROUPS)
        block_pieces(6, 5, 4, groups, [(0, 6, P)])
        assert groups == OUTPUT_GROUPS

    def test_tiles(self):
        """Tiles of 2 x 2, three in a row, every other one: 0 and 2 of the first row, 1 of the second."""
        tiles = tile_pattern(2, 0, 2).tiles(4, 6)
        assert tile_pieces(7, tiles) == [(0, 7, Kept.of([0, 1], 4), Kept.of([0, 1, 4, 5], 6)),
                                         (0, 7, Kept.of([2, 3], 4), Kept.of([2, 3], 6))]
        assert all(isinstance(piece, Piece) for piece in tile_pieces(7, tiles))


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("lead", [(5,), (2, 3), ()])
class TestAgainstTorch:
    @in_turn("outputs, inputs", [(9, 7), (2, 7), (9, 2), (1, 1)])
    @in_turn("period, size", [(1, 2), (2, 2), (3, 1), (5, 3), (2, 32)])
    def test_dropped_weights_in_tiles(self, agrees_with_torch, transpose, lead, outputs, inputs, period,
                                      size):
        torch = pytest.importorskip("torch")
        for offset in range(period):
            pattern = tile_pattern(period, offset, size)
            pieces = tile_pieces(int(np.prod(lead)), pattern.tiles(outputs, inputs))
            mask = torch.tensor(pattern.weight_mask(outputs, inputs)) * pattern.scale
            W = numbers(outputs, inputs)
            agrees_with_torch(
                lambda x, W, b, p=pieces, s=pattern.scale: linear_pieces(x, W, b, p, s, transpose),
                lambda x, W, b, m=mask: torch.nn.functional.linear(x, (W.T if transpose else W) * m, b),
                numbers(*lead, inputs), W.T if transpose else W, numbers(outputs))

    @in_turn("above, below", [(True, False), (False, True), (True, True)])
    def test_dropped_activations_in_blocks(self, agrees_with_torch, transpose, lead, above, below):
        torch = pytest.importorskip("torch")
        samples = int(np.prod(lead))
        groups = {side: draw.groups(samples) for side, draw in block_draws().items()}
        outs, ins = groups["below"] if below else None, groups["above"] if above else None
        masks = {side: torch.tensor(draw.mask((samples, draw.total), 1) / draw.scale).reshape(*lead, -1)
                 for side, draw in block_draws().items()}

        def masked(x, W, b=0):
            y = torch.nn.functional.linear(x * (masks["above"] if above else 1), W.T if transpose else W)
            return y * (masks["below"] if below else 1) + b
        pieces = block_pieces(samples, 9, 7, outs, ins)
        W = numbers(9, 7)
        W = W.T if transpose else W
        agrees_with_torch(lambda x, W, b: linear_pieces(x, W, b, pieces, 1.0, transpose), masked,
                          numbers(*lead, 7), W, numbers(9))
        agrees_with_torch(lambda x, W: linear_pieces(x, W, None, pieces, 1.0, transpose), masked,
                          numbers(*lead, 7), W)


def block_draws():
    """A drop of 7 units above a product and one of 9 below it, in groups of different lengths."""
    sites = {"above": DropSite("drop1", PatternSettings(0.5, "BLOCK", block_samples=2, block_units=2), 0, 7),
             "below": DropSite("drop2", PatternSettings(0.3, "BLOCK", block_samples=3), 0, 9)}
    return {side: site.draw(4) for side, site in sites.items()}


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, True), (True, False, True),
                                    (False, False, True), (True, False, False)])
def test_gradients_that_nobody_wants_cost_nothing(monkeypatch, wanted):
    x, W, b = (Tensor(numbers(*shape), requires_grad=want)
               for shape, want in zip(((6, 6), (4, 6), (4,)), wanted, strict=True))
    y = linear_pieces(x, W, b, tile_pieces(6, tile_pattern(2, 0, 2).tiles(4, 6)), 2.0)
    products = []
    gemm = type(x.backend).gemm
    monkeypatch.setattr(type(x.backend), "gemm", lambda *given, **more: products.append(1)
                        or gemm(*given, **more))
    y.backward(y.backend.xp.ones_like(y.data))
    assert len(products) == 2 * (wanted[0] + wanted[1])         # two classes of tiles
    assert [tensor.grad is not None for tensor in (x, W, b)] == list(wanted)


def test_the_gradient_of_a_parameter_is_the_pieces_themselves():
    W = Parameter(numbers(4, 6))
    linear_pieces(Tensor(numbers(5, 6)), W, None, tile_pieces(5, tile_pattern(2, 0, 2).tiles(4, 6)),
                  2.0).backward(np.ones((5, 4)))
    assert [block.data.shape for block in W.blocks] == [(2, 4), (2, 2)]
    assert W.grad[:2, 2:4].tolist() == [[0, 0], [0, 0]] == W.grad[2:, :2].tolist()
    np.testing.assert_allclose(W.grad[:2, [0, 1, 4, 5]],
                               2 * numbers(5, 6).sum(axis=0)[None, [0, 1, 4, 5]].repeat(2, 0))
    np.testing.assert_array_equal(Blocks(W.blocks, W.dtype).dense(W.backend, (4, 6)), W.grad)


@in_turn("pieces", [block_pieces(0, 5, 4, []), block_pieces(0, 5, 4), [Piece(0, 0, A, P)]],
         ids=len)
@in_turn("trained", [False, True])
@in_turn("transpose", [False, True])
def test_an_empty_batch(backend, dtype, pieces, trained, transpose):
    """There may be no piece at all, and so no gradient of W to take the dtype from."""
    x, b = (Tensor(backend.asarray(numbers(*shape).astype(dtype)), True, backend) for shape in ((0, 4), (5,)))
    data = backend.asarray(numbers(*((4, 5) if transpose else (5, 4))).astype(dtype))
    W = Parameter(data, backend) if trained else Tensor(data, True, backend)
    y = linear_pieces(x, W, b, pieces, 2.0, transpose)
    assert y.shape == (0, 5)
    y.backward(y.backend.xp.ones_like(y.data))
    gradients = [tensor.grad for tensor in (x, b)] + [W.dense_grad() if trained else W.grad]
    for tensor, gradient in zip((x, b, W), gradients, strict=True):
        assert (gradient.shape == tensor.shape and gradient.dtype == dtype
                and not backend.to_host(gradient).any())


def test_a_computed_weight_of_an_empty_batch():
    """W is no leaf: its gradient goes on as an array."""
    V = Tensor(numbers(5, 4), requires_grad=True)
    linear_pieces(Tensor(np.zeros((0, 4))), functions.power(V, 2.0), None, []).backward(np.ones((0, 5)))
    assert V.grad.shape == (5, 4) and not V.grad.any()


def test_what_no_piece_writes_is_the_bias():
    y = linear_pieces(Tensor(numbers(6, 4)), Tensor(numbers(5, 4)), Tensor(np.arange(5.0)),
                      block_pieces(6, 5, 4, OUTPUT_GROUPS)).numpy()
    for first, last, kept in OUTPUT_GROUPS:
        dropped = np.flatnonzero(~kept.mask())
        assert (y[first:last][:, dropped] == dropped).all()
        assert (y[first:last][:, kept.indices] != kept.indices).all()


@in_turn("shape, axis, lead", [((6, 5), 1, 6), ((6, 5, 2, 3), 1, 6), ((3, 2, 5), 2, 6),
                               ((3, 2, 5), -1, 6), ((0, 5), 1, 0), ((6, 5, 0), 1, 6)])
def test_multiply_blocks(shape, axis, lead, dtype, backend):
    x = numbers(*shape).astype(dtype)
    groups = OUTPUT_GROUPS if lead else []
    factors = np.zeros((lead, 5))
    for first, last, kept in groups:
        factors[first:last, kept.indices] = 2
    expected = (x.reshape(lead, 5, int(np.prod(shape[axis % len(shape) + 1:])))
                * factors[:, :, None]).reshape(shape)
    tensor = Tensor(backend.asarray(x), requires_grad=True, backend=backend)
    y = MultiplyBlocks(groups, 2.0, axis % len(shape)).apply(tensor)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.numpy(), expected)
    y.backward(x)
    np.testing.assert_array_equal(backend.to_host(tensor.grad), expected)


W = Tensor(np.zeros((5, 4)))


@pytest.mark.parametrize("call, message", [
    (lambda x: linear_pieces(x, W, None, block_pieces(6, 5, 4)), "linear: x has 3 features, but W of shape "
     "(5, 4) expects 4"),
    (lambda x: linear_pieces(x, W, None, block_pieces(6, 5, 4), transpose=True),
     "linear: x has 3 features, but W of shape (5, 4) expects 5"),
    (lambda x: linear_pieces(x, Tensor(np.zeros((5, 3))), None, [Piece(0, 6, A, Kept(0, 2, 1, 4))]),
     "linear: a piece of Kept(2 of 5) outputs by Kept(2 of 4: 1 of every 2 from 0) inputs does not fit W of "
     "shape (5, 3), which has 5 outputs and 3 inputs"),
    (lambda x: functions.linear(functions.take(x, Kept(0, 2, 1, 3)), Tensor(np.zeros((5, 3))),
                                outputs=DropSite("d", PatternSettings(0.5, "BLOCK"), 0, 5).draw(0)),
     "linear: with dropped weights or blocks x must have all of its units, but it carries "
     "Kept(2 of 3: 1 of every 2 from 0); call functions.expand on it first"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ShapeError) as caught:
        call(Tensor(numbers(6, 3)))
    assert str(caught.value) == message
