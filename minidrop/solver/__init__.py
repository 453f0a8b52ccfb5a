"""Training: the solver loop, update rules, learning-rate policies, tests."""

from minidrop.solver.early_stopping import EarlyStopping
from minidrop.solver.ema import EMA
from minidrop.solver.evaluation import BatchMean, mean_of, run_test
from minidrop.solver.events import Event, StopTraining
from minidrop.solver.loop import Solver
from minidrop.solver.state import load_weights

__all__ = ["EMA", "BatchMean", "EarlyStopping", "Event", "Solver", "StopTraining", "load_weights", "mean_of",
           "run_test"]
