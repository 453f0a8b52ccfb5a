"""Hand-written loops: cpu.py (Numba) for the NumPy backend; README.md says why each one exists."""
