"""One CUDA device through CuPy."""
