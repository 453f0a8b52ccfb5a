"""EuclideanLoss."""

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, register_layer


@register_layer("EuclideanLoss")
class EuclideanLoss(Layer):
    """loss = sum (a - b)^2 / (2 N)."""

    bottoms = (2, 2)
    is_loss = True

    def setup(self, a, b):
        if tuple(a) != tuple(b):
            raise ShapeError(f"bottoms of one shape expected, got {tuple(a)} and {tuple(b)}")
        return [()]

    def forward(self, a, b):
        return functions.euclidean_loss(a, b)
