"""What who adds a layer, a pattern or a function tests it with."""

from minidrop.autograd import check_gradients
from minidrop.testing.masked_dense import assert_matches_masked_dense, run_once
from minidrop.testing.ranks import run_ranks

__all__ = ["assert_matches_masked_dense", "check_gradients", "run_once", "run_ranks"]
