"""The CPU: NumPy, its BLAS, and Numba loops."""

from minidrop.backend.numpy.backend import NumpyBackend

__all__ = ["NumpyBackend"]
