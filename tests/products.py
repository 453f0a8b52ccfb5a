"""`linear` by a product of one's choice, as draws of a net would make it choose; attention's are counted."""

from minidrop.functions.blocks import GridProduct, block_product
from minidrop.functions.linear import Linear
from minidrop.functions.pieces import PieceProduct


class Chosen(Linear):
    def __init__(self, choose, transpose, activation):
        super().__init__(transpose=transpose, activation=activation)
        self.choose = choose

    def choose_product(self, backend, W, samples, in_kept):
        assert in_kept is None
        return self.choose(backend, W, samples)


def _apply(choose, x, W, b, transpose, activation):
    return Chosen(choose, transpose, activation).apply(*((x, W) if b is None else (x, W, b)))


def linear_pieces(x, W, b, pieces, scale=1.0, transpose=False, activation="none"):
    return _apply(lambda *_: PieceProduct(pieces, scale, transpose), x, W, b, transpose, activation)


def linear_grids(x, W, b, output_grid, input_grid, transpose=False, activation="none"):
    return _apply(lambda *_: GridProduct(output_grid, input_grid, transpose), x, W, b, transpose, activation)


def block_linear(x, W, b, output_groups, input_groups, transpose=False, activation="none"):
    return _apply(lambda backend, W, samples: block_product(backend, W, samples, output_groups, input_groups,
                                                            transpose), x, W, b, transpose, activation)


def attended(monkeypatch, backend):
    """Return a list to which the tiles of attention add how many terms their products have."""
    terms = []
    for name, products in (("attend", 1), ("attend_gradient", 2)):
        method = getattr(type(backend), name)

        def counted(self, operands, *rest, method=method, products=products):
            q, k, v = operands
            terms.append(products * q.shape[0] * q.shape[1] * k.shape[1] * (q.shape[2] + v.shape[2]))
            return method(self, operands, *rest)

        monkeypatch.setattr(type(backend), name, counted)
    return terms
