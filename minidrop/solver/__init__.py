"""Training: the solver loop, update rules, learning-rate policies, tests."""

from minidrop.solver.evaluation import BatchMean, mean_of, run_test
from minidrop.solver.loop import Event, Solver
from minidrop.solver.state import load_weights

__all__ = ["BatchMean", "Event", "Solver", "load_weights", "mean_of", "run_test"]
