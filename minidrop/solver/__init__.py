"""Training: the loop, the update rules, the learning-rate policies."""

from minidrop.solver.loop import Event, Solver, run_test
from minidrop.solver.state import load_weights

__all__ = ["Event", "Solver", "load_weights", "run_test"]
