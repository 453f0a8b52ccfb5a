"""Several ranks, in one process, train as one process with the whole batch does."""

import numpy as np
import pytest
from cases import in_turn
from nets import drop, ip, layer
from parallel_nets import (
    FINE,
    assert_same_training,
    conv_net,
    language_model,
    memory,
    mlp,
    mlp_with,
    solver_of,
    trained,
    write_text,
)

from minidrop.errors import ConfigError
from minidrop.testing import run_ranks

RULES = {"SGD": "momentum: 0.9 weight_decay: 0.01", "Nesterov": "momentum: 0.9", "Adam": "momentum: 0.9 ",
         "AdamW": "momentum: 0.9 weight_decay: 0.01", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.95 delta: 1e-4"}
KINDS = ["Dropout", "GaussianDropout", "PERIODIC", *(f"PERIODIC groups: {n}" for n in (1, 2, 4, 5)),
         "PERIODIC reshuffle_interval: 2", "TILE", "BLOCK", "SLICE", "UNIT", "ROW"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule):
    assert_same_training(mlp_with("PERIODIC"), f'type: "{rule}" {RULES[rule]}', (2,))


@in_turn("kind", KINDS)
def test_every_kind_of_drop(kind):
    assert_same_training(mlp_with(kind), "", (1, 3, 4), iterations=4)


def test_fifty_iterations():
    settings = "momentum: 0.9 weight_decay: 0.01 clip_gradients: 1"
    assert_same_training(mlp_with("PERIODIC groups: 4"), settings, (1, 2, 3, 4), iterations=50)


def test_a_convolutional_net():
    assert_same_training(conv_net(drop("drop1", "relu1", "PERIODIC groups: 4", top="relu1")))
    shared = layer("Dropout", "drop1", "relu1", "relu1", "dropout_param { axes: [2, 3] }")
    assert_same_training(conv_net(shared), ranks=(3,))


LSTM = 'recurrent_param {{ num_output: 10 weight_filler {{ type: "uniform" min: -0.3 max: 0.3 }} {} }}'
HIDDEN = ["", 'hidden_dropout {{ pattern: "PERIODIC" {} }}',
          'hidden_dropout {{ pattern: "PERIODIC" steps_per_pattern: 2 {} }}',
          "hidden_dropout {{ dropout_ratio: 0.4 }} hidden_dropout_type: CONVENTIONAL"]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_an_lstm(hidden, tmp_path):
    """Its states are carried from batch to batch."""
    path = write_text(tmp_path)
    for groups in ("", "groups: 4"):
        middle = layer("LSTM", "h", "embed cont", more=LSTM.format(hidden.format(groups)))
        assert_same_training(language_model(path, middle), ranks=(2, 3))


@pytest.mark.parametrize("order", ["", "shuffle: true"])
@pytest.mark.parametrize("kind", ["Dropout", "PERIODIC groups: 2"])
def test_a_small_gpt(order, kind, tmp_path):
    def dense(name, bottom, outputs):
        return ip(name, bottom, outputs, "axis: 2", fillers=FINE)
    block = [layer("LayerNorm", "norm", "embed", more="layer_norm_param { axis: 2 }"),
             *(dense(name, "norm", 8) for name in "qkv"),
             layer("Attention", "attention", "q k v", more="attention_param { num_heads: 2 causal: true "
                                                           "dropout_ratio: 0.3 }"),
             layer("Eltwise", "added", "embed attention"), dense("up", "added", 16),
             layer("ReLU", "relu", "up"), drop("drop", "relu", kind), dense("down", "drop", 8),
             layer("Eltwise", "h", "added down")]
    assert_same_training(language_model(write_text(tmp_path), *block, more=order), ranks=(2, 3))


def test_losses_count_the_labels_of_all_ranks():
    """Labels that are ignored leave more for some ranks than for others."""
    def loss(name, weight, more):
        return layer("SoftmaxWithLoss", name, "ip2 label",
                     more=f"loss_weight: {weight} loss_param {{ {more} }}")
    one, main = mlp_with("PERIODIC")[:-1], loss("main", 1, "ignore_label: 2")
    other, summed = loss("other", 0.3, "ignore_label: 3"), loss("summed", 0.01, "normalization: NONE")
    entries = layer("Reduction", "entries", "ip2",
                    more="loss_weight: 0.001 reduction_param { operation: SUMSQ }")
    blob = layer("Power", "blob", "ip2", more="loss_weight: 0.001 power_param { scale: 0.5 }")
    for losses in ([main], [main, other], [summed], [main, summed, entries, blob]):
        for size in (1, 2):
            assert_same_training([*one, *losses], f"iter_size: {size} clip_gradients: 0.5", (3,))


def test_a_normalization_that_a_loss_does_not_read_makes_it_no_sum():
    """A HingeLoss is a mean over records whatever its loss_param says, as a warning tells."""
    for kind in ("HingeLoss", "EuclideanLoss"):
        last = ip("ip2", "relu1", 7 if kind == "HingeLoss" else 1, fillers=FINE)
        loss = layer(kind, "loss", "ip2 label", more="loss_weight: 0.1 loss_param { normalization: NONE }")
        assert_same_training([*mlp()[:-2], last, loss], "iter_size: 2", (3,), iterations=3)


def test_clipping_is_by_the_norm_of_all_gradients():
    settings = "clip_gradients: 0.05 iter_size: 2 weight_decay: 0.01"
    assert_same_training(mlp_with("PERIODIC groups: 2"), settings)


def test_averages_of_weights():
    assert_same_training(mlp_with("PERIODIC"), "ema_decay: 0.9")


def test_a_batch_for_each_rank_and_a_rate_that_grows_with_them():
    """Three ranks with batches of 4 are one process with a batch of 12 and three times the rate."""
    dropped, settings = drop("drop1", "relu1", "PERIODIC groups: 2", top="relu1"), "warmup_iter: 4"
    expected, losses = trained(mlp(dropped), settings, overrides={"base_lr": 0.3})
    small = mlp(dropped, data=memory(batch=4))

    def work(one):
        return trained(small, settings, one, batch_per_rank=True, scale_lr=True)
    for found, own in run_ranks(3, work):
        np.testing.assert_allclose(own, losses, rtol=0, atol=1e-10)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)
    alone = trained(small, settings, batch_per_rank=True, scale_lr=True)
    np.testing.assert_array_equal(alone[1], trained(small, settings)[1])


def test_only_the_batches_of_the_net_to_train_grow():
    tests = "test_iter: 2 test_interval: 5 min_lr: 0.01"
    solver = run_ranks(2, lambda one: solver_of(mlp(), tests, one, batch_per_rank=True, scale_lr=True))[0]
    data, tested = (choice.config.message.layer[0].memory_data_param
                    for choice in (solver.choices[0], *solver.choices[1]))
    assert (data.batch_size, tested.batch_size) == (24, 12)
    assert (solver.settings.base_lr, solver.settings.min_lr) == pytest.approx((0.2, 0.02))
    inputs = ['layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 4 '
              'dim: 13 } shape { dim: 4 } } }']
    with pytest.raises(ConfigError, match="batch_per_rank multiplies each batch_size .* no layer of the net"):
        solver_of([*inputs, *mlp()[1:]], batch_per_rank=True)


PENALTY = ('layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 5 } '
           'filler { type: "gaussian" std: 1 } } }')


def reduction(operation, bottom, top="r", more=""):
    return layer("Reduction", top, bottom, more=f"{more} reduction_param {{ operation: {operation} }}")


def test_a_penalty_counts_once_and_sums_stay_sums():
    """A sum of weights is on every rank; what is linear in a sum over samples adds up as that does."""
    penalty = [PENALTY, reduction("SUMSQ", "w", "p", "loss_weight: 0.1")]
    scaled = [reduction("SUM", "ip2"),
              layer("Power", "scaled", "r", more="loss_weight: 0.1 power_param { scale: 0.02 }")]
    both = [reduction("SUMSQ", "ip2"), reduction("ASUM", "ip1", "s"),
            layer("Eltwise", "both", "r s", more="loss_weight: 0.001 eltwise_param { coeff: 1 coeff: 0.3 }")]
    for more in (penalty, scaled, both):
        assert_same_training([*mlp(), *more], ranks=(3,), iterations=3)


@pytest.mark.parametrize(("more", "warns"), [
    ([reduction("MEAN", "ip2"), layer("Power", "end", "r", more="power_param { power: 2 }")], True),
    ([reduction("SUM", "ip2"), layer("Power", "end", "r", more="power_param { shift: 2 }")], True),
    ([PENALTY, reduction("SUM", "w", "p"), reduction("SUM", "ip2"), layer("Eltwise", "end", "p r")], True),
    ([PENALTY, reduction("SUM", "w", "p"), reduction("MEAN", "ip2"), layer("Eltwise", "end", "p r")], False),
    ([PENALTY, reduction("SUM", "w", "p"), layer("Power", "end", "p", more="power_param { power: 2 }")],
     False)])
def test_a_warning_of_numbers_that_ranks_cannot_put_together(more, warns, caplog):
    run_ranks(2, lambda one: solver_of([*mlp(), *more], "", one).close())
    said = "layer 'end' (" in caplog.text and "neither a sum nor a mean over ranks" in caplog.text
    assert said is warns


def test_statistics_count_each_pass_once_where_losses_weight_the_passes_differently():
    """Then the passes are run again, once what counts in all of them is known."""
    norm = layer("BatchNorm", "norm", "ip1", "ip1", "batch_norm_param { moving_average_fraction: 1 }")
    net = [*mlp()[:2], norm, *mlp()[2:-1]]
    losses = [layer("SoftmaxWithLoss", f"loss{n}", "ip2 label", more=f"loss_param {{ ignore_label: {n} }}")
              for n in (2, 3)]

    def statistics(last, settings="", one=None, iterations=1):
        solver = solver_of([*net, *last], settings, one)
        solver.step(iterations)
        return {name: own.data.copy() for name, own in solver.net.params["norm"].items()}
    for settings, ranks in (("iter_size: 2", 1), ("", 2), ("iter_size: 2", 2)):
        for expected, found in zip(*(run_ranks(ranks, lambda one, last=last, settings=settings: statistics(
                last, settings, one)) for last in (losses[:1], losses)), strict=True):
            assert expected["scale_factor"][0] == (2 if settings else 1)
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert statistics(losses, "iter_size: 2", iterations=4)["scale_factor"][0] == 8
