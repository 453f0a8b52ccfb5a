"""Several ranks, in one process, train as one process with the whole batch does."""

import pytest
from cases import in_turn
from nets import drop, layer
from parallel_nets import assert_same_training, conv_net, language_model, mlp, mlp_with, write_text

RULES = {"SGD": "momentum: 0.9 weight_decay: 0.01", "Nesterov": "momentum: 0.9", "Adam": "momentum: 0.9 ",
         "AdamW": "momentum: 0.9 weight_decay: 0.01", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.95 delta: 1e-4"}
KINDS = ["Dropout", "GaussianDropout", "PERIODIC", "PERIODIC groups: 1", "PERIODIC groups: 2", "PERIODIC groups: 4",
         "PERIODIC groups: 5", "TILE", "BLOCK", "BLOCK block_samples: 4", "SLICE", "UNIT", "ROW"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule):
    assert_same_training(mlp_with("PERIODIC"), f'type: "{rule}" {RULES[rule]}', (2,))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_drop(kind):
    assert_same_training(mlp_with(kind), "", (1, 2, 3, 4))
