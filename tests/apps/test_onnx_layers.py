"""Every layer type as ONNX computes what minidrop computes, or says why it has no equivalent."""

import re
from pathlib import Path

import numpy as np
import pytest
from backend.test_layers_agree import CASES, TOPS
from cases import in_turn
from nets import inputs, layer, net_of, numbers
from onnx_files import assert_computes, assert_equal_outputs, exported

from minidrop import ConfigError, Layer, functions, register_layer
from minidrop.apps.onnx import exported_types, exports, writer
from minidrop.apps.onnx.refused import REASONS
from minidrop.layers import base, known_layers
from minidrop.net.torch_modules import known_forms

FILLERS = " ".join(f'{name}_filler {{ type: "uniform" min: -.5 max: .5 }}' for name in ("weight", "bias"))
BEGINS = np.arange(5)[:, None] * np.ones((5, 3)) > 0        # whole sequences of 5 steps
PADDED = BEGINS & (np.arange(5)[:, None] < (5, 2, 1))
SEQUENCE, IMAGES = numbers(5, 3, 7), numbers(3, 5, 4, 3)
STATES = [numbers(1, 3, 4, seed=seed) for seed in (1, 2)]


def recurrent(more="", outputs=4):
    return f"recurrent_param {{ num_output: {outputs} {FILLERS} {more} }}"


def convolution(settings):
    return f"convolution_param {{ num_output: 4 {FILLERS} {settings} }}"


# Beside the cases of all layers, {type: [(settings, bottoms)]}.
MORE = {
    "ArgMax": [("argmax_param { top_k: 2 out_max_val: true }", (np.round(numbers(6, 5)),)),
               ("argmax_param { axis: 1 top_k: 2 }", (np.round(numbers(6, 5)),))],
    "Attention": [("attention_param { num_heads: 2 causal: true }",
                   (numbers(6, 3, 4), numbers(4, 3, 4), numbers(4, 3, 6))),
                  ("attention_param { num_heads: 1 causal: true scale: 0.3 }",
                   (numbers(5, 3, 4), numbers(5, 3, 4), numbers(5, 3, 2), PADDED)),
                  ("attention_param { num_heads: 2 }",
                   (numbers(4, 3, 4), numbers(5, 3, 4), numbers(5, 3, 2), 0 * PADDED))],
    "BatchNorm": [("batch_norm_param { use_global_stats: false eps: 0.01 }", (IMAGES,)), ("", (numbers(5),))],
    "Convolution": [(convolution(settings), (x,)) for settings, x in (
        ("kernel_size: 2 stride: 2", numbers(3, 2, 7)), ("kernel_size: 2 pad: 1", numbers(2, 2, 3, 4, 5)),
        ("axis: 2 kernel_size: 2", numbers(2, 3, 2, 4, 5)), ("kernel_size: 3 bias_term: false",
                                                              numbers(2, 3, 5, 5)))],
    "Crop": [("crop_param { axis: 2 offset: 1 }", (IMAGES, numbers(3, 5, 3, 2)))],
    "Deconvolution": [(convolution("kernel_h: 3 kernel_w: 2 stride: 2 dilation: 2 pad: 1"), (IMAGES,))],
    "Eltwise": [("eltwise_param { operation: SUM coeff: 1 coeff: -0.5 coeff: 2 }",
                 [numbers(4, 3, seed=seed) for seed in range(3)])],
    "GRU": [(recurrent(), (SEQUENCE, BEGINS)), (recurrent("bidirectional: true"), (SEQUENCE, BEGINS)),
            (recurrent("expose_hidden: true"), (SEQUENCE, BEGINS | True, STATES[0]))],
    "InnerProduct": [(f"inner_product_param {{ num_output: 4 axis: 2 {FILLERS} {more} }}", (x,))
                     for more in ("", "transpose: true") for x in (SEQUENCE, numbers(2, 3, 4, 2))],
    "LSTM": [(recurrent(), (SEQUENCE, BEGINS)), (recurrent("bidirectional: true"), (SEQUENCE, BEGINS)),
             (recurrent(), (numbers(5, 3, 2, 4), BEGINS, numbers(3, 2, 2))),
             (recurrent("bidirectional: true"), (SEQUENCE, BEGINS, numbers(3, 6))),
             (recurrent("expose_hidden: true"), (SEQUENCE, BEGINS | True, *STATES)),
             (recurrent(), (SEQUENCE[:1], BEGINS[:1]))],
    "LRN": [("lrn_param { local_size: 3 alpha: 2 }", (x,))
            for x in (numbers(3, 5, 4), numbers(2, 4, 2, 3, 2))],
    "LastState": [(settings, (numbers(5, 3, 6), PADDED))
                  for settings in ("", "recurrent_param { bidirectional: true }")],
    "MVN": [("", (numbers(3, 4),)), ("mvn_param { across_channels: true eps: 0.1 }", (numbers(3, 4),))],
    "Pooling": [(f"pooling_param {{ {settings} }}", (numbers(2, 3, height, width) + 1,))
                for settings in (
                    "pool: MAX kernel_size: 3 stride: 2", "pool: MAX kernel_size: 3 stride: 2 pad: 1",
                    "pool: MAX kernel_size: 2 stride: 3", "pool: AVE kernel_size: 3 stride: 2",
                    "pool: AVE kernel_size: 3 stride: 2 pad: 2",
                    "pool: AVE kernel_size: 2 stride: 3 round_mode: FLOOR",
                    "pool: MAX kernel_size: 3 stride: 2 round_mode: FLOOR",
                    "pool: STOCHASTIC kernel_size: 3 stride: 2", "pool: AVE global_pooling: true",
                    "pool: STOCHASTIC global_pooling: true")
                for height, width in ((6, 7), (8, 5), (9, 10))],
    "RNN": [(recurrent(more), (SEQUENCE, BEGINS)) for more in (
        "", "output_product: false", "bidirectional: true", "bidirectional: true output_product: false")],
    "Scale": [("scale_param { axis: 0 }", bottoms) for bottoms in (
        (numbers(3, 4, 2), numbers(3)), (numbers(3, 4), np.array(1.5)))],
    "Slice": [("slice_param { axis: 0 }", (numbers(4, 3),)),
              ("slice_param { axis: 2 slice_point: 1 }", (IMAGES,))],
}
TIED_TOPS = {("LSTM", "expose_hidden"): ("y", "z", "w"), ("GRU", "expose_hidden"): ("y", "z"),
             ("Pooling", "MAX kernel_size: 3 stride: 2 pad"): ("y", "z")}
FIXED = {"ArgMax", "Scale"}         # of some settings their equivalent has a batch of one size
RECURRENT = ("LSTM", "GRU", "RNN")


def cases():
    """Yield (type, settings, bottoms) of the types that are exported; whole sequences where it matters."""
    for kind in exported_types():
        own = [] if kind in (*RECURRENT, "LastState") else CASES[kind]
        yield from ((kind, *case) for case in [*own, *MORE.get(kind, [])])


def tops_of(kind, settings):
    found = [tops for (own, part), tops in TIED_TOPS.items() if own == kind and part in settings]
    return found[0] if found else TOPS.get(kind, ("y",))


def test_every_layer_type_is_exported_or_has_a_reason():
    assert sorted([*exported_types(), *REASONS]) == known_layers(), (
        "a layer type without a function in minidrop/apps/onnx and without a reason in its refused.py")
    assert set(exported_types()) <= set(CASES)


def test_the_page_names_every_layer_type():
    """docs/export.md has a table of the exported types, one of those that are not, and one of modules."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    rows = [[set(re.findall(r"`([A-Z]\w+)`", line.split("|")[1])) for line in part.split("\n")
             if line.startswith("| `")] for part in re.split("^\\|---.*", page, flags=re.M)[1:]]
    exported, refused, modules = (set().union(*part) for part in rows)
    assert exported == set(exported_types()) and refused == set(REASONS)
    assert modules == {*known_forms(), "Scale"}


@in_turn("kind, settings, bottoms", list(cases()), ids=lambda case: f"{case[0]} {case[1]}")
def test_a_layer_computes_the_same(tmp_path, kind, settings, bottoms):
    names, tops = "abcdef"[:len(bottoms)], tops_of(kind, settings)
    blobs = " ".join([*(f'bottom: "{name}"' for name in names), *(f'top: "{top}"' for top in tops)])
    if not (names and tops):            # a net in use reads something, and gives something
        bottoms, names, tops = bottoms or [numbers(2, 3)], names or "a", (*tops, "other")
    others = ['layer { name: "other" type: "AbsVal" bottom: "a" top: "other" }'] * ("other" in tops)
    own = f'layer {{ name: "l" type: "{kind}" {blobs} {settings} }}'
    net = net_of(inputs(*map(np.shape, bottoms)), *others, own, phase="TEST", seed=3)
    for parameter in net.parameters().values():        # those that begin as 0 or 1 would hide mistakes
        parameter.data[...] = np.abs(parameter.data) + numbers(*parameter.shape, low=0.1, high=0.9)
    given = dict(zip(names, bottoms, strict=True))
    path = tmp_path / "layer.onnx"
    assert_equal_outputs(net, path, given, tops, batch=None)
    try:
        done = exported(net, path, outputs=tops)
    except ConfigError as error:
        assert kind in FIXED and "with a fixed batch (batch=None, --fixed-batch)" in str(error)
        return
    unread = (None, "N") if kind in RECURRENT else ()       # cont, which is no input
    twice = {name: of_twice_the_batch(array, done.inputs.get(name, unread)) for name, array in given.items()}
    larger = net_of(inputs(*map(np.shape, twice.values())), *others, own, phase="TEST", share=net)
    assert_computes(path, larger, twice)


def of_twice_the_batch(array, shape):
    """An array and its records in reverse order behind it, on the axis that counts them."""
    axes = [axis for axis, length in enumerate(shape) if isinstance(length, str)]
    return np.concatenate([array, np.flip(array, axes[0])], axes[0]) if axes else array


def test_unknown_and_refused_layers_are_listed_together(tmp_path):
    net = net_of(inputs((5, 3, 4), (6, 3, 4), (6, 3)), f'''
        layer {{ name: "d" type: "AttentionDecoder" bottom: "a" bottom: "b" bottom: "c" top: "d"
                decoder_param {{ num_output: 4 {FILLERS} }} }}
        layer {{ name: "p" type: "Position" bottom: "d" top: "p"
                position_param {{ max_steps: 9 continues: true }} }}''',
                 phase="TEST")
    with pytest.raises(ConfigError) as caught:
        exported(net, tmp_path / "net.onnx", outputs=["p"], batch=None)
    first, second = str(caught.value).split("\n")
    assert first == ("net.prototxt:6:9: layer 'd' (AttentionDecoder): it reads its own result at the next "
                     "step, which no operator of ONNX does; use `minidrop translate`")
    assert second.startswith("net.prototxt:8:9: layer 'p' (Position): continues: it counts on from pass to "
                             "pass")
    assert not (tmp_path / "net.onnx").exists()
    with pytest.raises(ValueError, match="registered twice"):
        exports("ReLU")(lambda to, layer, x: x)


def test_a_type_of_the_user_takes_one_function(tmp_path):
    with base._types.forgetting(), writer._writers.forgetting():
        @register_layer("Squares")
        class Squares(Layer):
            def forward(self, x):
                return functions.power(x, 2)

        net = net_of(inputs((4, 3)), layer("Squares", "y", "a"), phase="TEST")
        with pytest.raises(ConfigError, match="register one with minidrop.apps.onnx.exports\\('Squares'\\)"):
            exported(net, tmp_path / "net.onnx", outputs="y")

        @exports("Squares")
        def squares(to, layer, x):
            return to("Mul", x, x)

        assert_equal_outputs(net, tmp_path / "net.onnx", {"a": numbers(4, 3)}, ["y"])
