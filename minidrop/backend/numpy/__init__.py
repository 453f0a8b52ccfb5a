"""The CPU: NumPy, BLAS through it, and Numba loops."""

from minidrop.backend.numpy.backend import NumpyBackend

__all__ = ["NumpyBackend"]
