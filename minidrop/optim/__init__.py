"""Optimizers: the solver's update rules for parameters outside of a Solver, with schedulers and averages.

    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = optim.schedulers.cosine(optimizer, max_iter=1000, warmup_iter=50)
    for batch in batches:
        net.forward(**batch)
        net.backward()
        optim.clip_grad_norm(optimizer.parameters, 1.0)
        optimizer.step()
        scheduler.step()
"""

from typing import NoReturn

from minidrop.errors import no_attribute
from minidrop.optim import schedulers
from minidrop.optim.clipping import clip_grad_norm
from minidrop.optim.learning_rates import LearningRates, find_learning_rate
from minidrop.optim.optimizer import Optimizer, ParamGroup
from minidrop.optim.optimizers import SGD, AdaDelta, AdaGrad, Adam, AdamW, Nesterov, RMSProp
from minidrop.optim.torch_names import HINTS
from minidrop.solver.ema import EMA

__all__ = ["EMA", "SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "LearningRates", "Nesterov", "Optimizer",
           "ParamGroup", "RMSProp", "clip_grad_norm", "find_learning_rate", "schedulers"]


def __getattr__(name: str) -> NoReturn:
    raise no_attribute(__name__, name, __all__, HINTS)


def __dir__() -> list[str]:
    """Return the public names alone: modules inside are no part of the interface."""
    return sorted(__all__)
