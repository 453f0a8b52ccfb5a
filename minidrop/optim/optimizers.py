"""The update rules of minidrop/solver/rules as optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from minidrop.errors import ConfigError, in_short, nearest
from minidrop.functions.explained import says_arguments
from minidrop.optim.optimizer import Optimizer, made_rule
from minidrop.optim.rules import AdamOfCorrected, GradientMomentum, GradientNesterov
from minidrop.solver.named import Parameters
from minidrop.solver.rules import UpdateRule, adadelta, adagrad, adam, adamw, nesterov, rmsprop, sgd

Params: TypeAlias = Parameters | Iterable[Mapping[str, Any]]

FORMS = ("caffe", "pytorch")
_BETAS = {"momentum": "betas[0]", "momentum2": "betas[1]", "delta": "eps"}


class SGD(Optimizer):
    """Gradient descent with momentum, of Nesterov's kind or plain.

        h = momentum * h + lr * g;  w -= h                       (form "caffe")
        h = momentum * h + g;       w -= lr * h                  (form "pytorch")
        g = gradient + weight_decay * w,  with l1: + weight_decay * sign(w)

    In Caffe's form the learning rate is part of the history: a new one acts on what comes, not on the steps
    that momentum goes on with. While lr stays, both are the same steps. For `nesterov` see Nesterov.
    """

    @says_arguments
    def __init__(self, params: Params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0,
                 nesterov: bool = False, l1: bool = False, form: str = "caffe"):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                                  "nesterov": nesterov, "l1": l1, "form": form})

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        if options.get("nesterov") and options["momentum"] == 0:
            raise ConfigError(f"{type(self).__name__}: nesterov=True changes nothing without a momentum; "
                              f"give one above 0, such as momentum=0.9")
        kinds = {"caffe": (sgd.SGD, nesterov.Nesterov), "pytorch": (GradientMomentum, GradientNesterov)}
        kind = kinds[_form(options)][bool(options.get("nesterov", True))]
        return made_rule(kind, type(self).__name__, {"momentum": options["momentum"]})


class Nesterov(SGD):
    """Nesterov's accelerated gradient: SGD with nesterov=True.

        h = momentum * h + lr * g;  w -= lr * g + momentum * h   (form "caffe")
        h = momentum * h + g;       w -= lr * (g + momentum * h) (form "pytorch")
    """

    @says_arguments
    def __init__(self, params: Params, lr: float, momentum: float = 0.9, weight_decay: float = 0.0,
                 l1: bool = False, form: str = "caffe"):
        Optimizer.__init__(self, params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                                          "l1": l1, "form": form})


class Adam(Optimizer):
    """Adam; weight_decay is L2 and part of the gradient, so that m and v see it (AdamW's is not).

        m = betas[0] * m + (1 - betas[0]) * g;  v = betas[1] * v + (1 - betas[1]) * g**2
        w -= lr * sqrt(1 - betas[1]**t) / (1 - betas[0]**t) * m / (sqrt(v) + eps)      (form "caffe")
        w -= lr * m' / (sqrt(v') + eps),  m' and v' corrected                          (form "pytorch")

    The forms differ in what eps is added to.
    """

    @says_arguments
    def __init__(self, params: Params, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, l1: bool = False, form: str = "caffe"):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "l1": l1, "form": form})

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        kind = adam.Adam if _form(options) == "caffe" else AdamOfCorrected
        return made_rule(kind, "Adam", _adam_fields("Adam", options), _BETAS)


class AdamW(Optimizer):
    """Adam whose decay shrinks the weights themselves, by lr * weight_decay; as torch.optim.AdamW."""

    @says_arguments
    def __init__(self, params: Params, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        return made_rule(adamw.AdamW, "AdamW", _adam_fields("AdamW", options), _BETAS)


class RMSProp(Optimizer):
    """h = alpha * h + (1 - alpha) * g**2;  w -= lr * g / (sqrt(h) + eps); as torch.optim.RMSprop, plain."""

    @says_arguments
    def __init__(self, params: Params, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0.0, l1: bool = False):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
                                  "l1": l1})

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        return made_rule(rmsprop.RMSProp, "RMSProp", {"rms_decay": options["alpha"], "delta": options["eps"]},
                         {"rms_decay": "alpha", "delta": "eps"})


class AdaGrad(Optimizer):
    """h += g**2;  w -= lr * g / (sqrt(h) + eps); as torch.optim.Adagrad without lr_decay."""

    @says_arguments
    def __init__(self, params: Params, lr: float = 0.01, eps: float = 1e-10, weight_decay: float = 0.0,
                 l1: bool = False):
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, "l1": l1})

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        return made_rule(adagrad.AdaGrad, "AdaGrad", {"delta": options["eps"]}, {"delta": "eps"})


class AdaDelta(Optimizer):
    """AdaDelta, as torch.optim.Adadelta.

    h = rho * h + (1 - rho) * g**2;  u = g * sqrt((d + eps) / (h + eps));  d = rho * d + (1 - rho) * u**2
    w -= lr * u
    """

    @says_arguments
    def __init__(self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
                 weight_decay: float = 0.0, l1: bool = False):
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "l1": l1})

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        return made_rule(adadelta.AdaDelta, "AdaDelta", {"momentum": options["rho"], "delta": options["eps"]},
                         {"momentum": "rho", "delta": "eps"})


def _form(options):
    form = options["form"]
    if not isinstance(form, str) or form not in FORMS:
        raise ConfigError(f"form: expected {' or '.join(map(repr, FORMS))}, got {in_short(form)}"
                          f"{nearest(form, FORMS)}")
    return form


def _adam_fields(what, options):
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ConfigError(f"{what}: betas: expected two numbers, got {in_short(betas)}")
    return {"momentum": betas[0], "momentum2": betas[1], "delta": options["eps"]}
