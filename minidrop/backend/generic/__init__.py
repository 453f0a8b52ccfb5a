"""The operations of every device, written once in `xp`: the reference for each override."""

from minidrop.backend.generic.base import PRECISIONS, Backend
from minidrop.backend.generic.nn import sigmoid
from minidrop.backend.generic.products import check_block_product
from minidrop.backend.generic.random import dropout_threshold

__all__ = ["PRECISIONS", "Backend", "check_block_product", "dropout_threshold", "sigmoid"]
