"""Update rules, one per file, named as in Caffe's `type`.

    rule = get_rule(param)                                  # param: SolverParameter
    history = [zeros like the weights] * rule.slots         # the state that snapshots keep
    rule.update(backend, parameter, history, rule.numbers(lr=0.01, decay=0.0005, iteration=0), decay=0.0005)
"""

from minidrop.solver.rules import adadelta, adagrad, adam, adamw, nesterov, rmsprop, sgd
from minidrop.solver.rules.base import (
    UpdateRule,
    check_rule,
    get_rule,
    known_rules,
    range_problems,
    register_rule,
    unread_settings,
)

__all__ = ["UpdateRule", "get_rule", "check_rule", "known_rules", "range_problems", "register_rule",
           "unread_settings", "sgd", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"]
