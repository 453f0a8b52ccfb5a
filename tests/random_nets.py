"""Nets grown at random out of many layer types and drops, for whatever must be equal in two computations.

A candidate for the next layer reads one of the last blobs and has settings at random. It stays if the net can
be built with it: what fits together the layers know.
"""

import random
import re
from dataclasses import dataclass

import numpy as np
import pytest
from nets import layer

from minidrop.config import parse_net, parse_solver
from minidrop.errors import DataError, MinidropError
from minidrop.net import Net
from minidrop.solver import Solver

WEIGHTS = 'weight_filler { type: "gaussian" std: 0.5 }'
FILLERS = WEIGHTS + ' bias_filler { type: "uniform" min: -1 max: 1 }'
OF_UNITS = ("PERIODIC", "ROW", "UNIT", "SLICE")
PLAIN = ("AbsVal", "BNLL", "ELU", "GELU", "LayerNorm", "PReLU", "RMSNorm", "Sigmoid", "SiLU", "Swish",
         "TanH")
IN_PLACE = {"ApproxDropout", "BatchNorm", "Dropout", "GaussianDropout", "Power", "ReLU", "Scale",
            *set(PLAIN) - {"LayerNorm", "RMSNorm"}}
IMAGES = ("Convolution", "Deconvolution", "Im2col", "LRN", "Patches", "Pooling", "SPP")
SEQUENCES = ("Attention", "GRU", "LastState", "LSTM", "Position", "RNN", "Rotary")
OTHERS = (*PLAIN, "BatchNorm", "Bias", "Clip", "Concat", "Concat", "Crop", "DropConnect", "Dropout", "Exp",
          "Flatten", "GaussianDropout", "MVN", "Permute", "Power", "Reduction", "Reshape", "Scale", "Slice",
          "Softmax", "Split", "Tile")
MIXING = {"BatchNorm", "Patches", "Permute", *SEQUENCES}
"""Layer types by which samples may depend on each other, or lie on another axis than the first."""
STEEP = {"MVN"}
"""Layer types that divide by a deviation, of constants by 1e-9: what rounds otherwise differs behind them."""
RULES = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "Adam": "delta: 1e-3", "AdamW": "delta: 1e-3",
         "RMSProp": "rms_decay: 0.9 delta: 1e-3", "AdaGrad": "delta: 1e-3",
         "AdaDelta": "momentum: 0.9 delta: 1e-3"}


def seeds(few, many):
    """Runs a test over `few` seeds, and over those up to `many` in the full run."""
    return pytest.mark.parametrize("seeds", [
        pytest.param(range(few), id="few"),
        pytest.param(range(few, many), id="many", marks=pytest.mark.full)])


def same(found, expected, what, rtol, share):
    """Assert that arrays are equal to rtol, or to a share of the largest number, 1 at least."""
    numbers = expected[np.isfinite(expected)]
    np.testing.assert_allclose(found, expected, rtol=rtol, err_msg=what,
                               atol=share * max(1, float(np.abs(numbers).max(initial=0))))


def a_solver(net, seed, **options):
    """A Solver in float64 with a rule and settings that the seed names."""
    rule = list(RULES)[seed % len(RULES)]
    more = ["", "iter_size: 2", "clip_gradients: 0.1", "weight_decay: 0.001"][seed % 4]
    text = (f'base_lr: 0.01 lr_policy: "inv" gamma: 0.1 power: 0.5 max_iter: 99 random_seed: {seed} '
            f'type: "{rule}" {RULES[rule]} {more} net_param {{ {net} }}')
    return Solver(parse_solver(text), **{"device": "cpu", "dtype": "float64", **options})


def drop_settings(rng, axes, families=(*OF_UNITS, "PERIODIC", "UNIT", "BLOCK", "TILE")):
    """The settings of a drop of a blob with so many axes."""
    family = rng.choice(families)
    said = [f'pattern: "{family}" dropout_ratio: {rng.choice([0, 0.25, 0.3, 0.5, 0.7, 0.9])}']
    if family == "TILE":
        said.append(f"tile_size: {rng.choice([2, 4])}")
    if family == "BLOCK":
        said.append(f"block_samples: {rng.randint(1, 3)} block_units: {rng.choice([1, 2, 4])}")
    if family in OF_UNITS:
        said += maybe(rng, 0.7, f"groups: {rng.randint(1, 4)}") + maybe(rng, 0.3, "grouping: INDEPENDENT")
        if axes == 3:
            said += maybe(rng, 0.5, rng.choice(["time: STEP", *(f"steps_per_pattern: {n}" for n in (2, 3))]))
    if family == "PERIODIC":
        said += maybe(rng, 0.3, f"step: {rng.randint(2, 5)}")
    if family in ("ROW", "TILE"):
        said += maybe(rng, 0.3, f"max_period: {rng.choice([2, 3, 4, 6])}")
    return " ".join(said + maybe(rng, 0.3, "scale: PATTERN"))


def maybe(rng, share, text):
    """[text] or []."""
    return [text] if rng.random() < share else []


def settings_of(kind, rng, shape):
    """Settings at random for a layer type that has some, "" for others; shape: of the first bottom."""
    axis = rng.randrange(1, max(2, len(shape)))
    if kind == "ApproxDropout":
        more = maybe(rng, 0.15, f"axis: {rng.randrange(-len(shape), len(shape))}") if len(shape) > 2 else []
        return f"approx_dropout_param {{ {' '.join([drop_settings(rng, len(shape)), *more])} }}"
    if kind == "InnerProduct":
        fillers = rng.choice([FILLERS] * 4 + [f"{WEIGHTS} bias_term: false"])
        said = [f"num_output: {rng.randint(1, 13)} {fillers}"]
        said += maybe(rng, 0.7 if len(shape) == 3 else 0.1, "axis: -1")
        said += maybe(rng, 0.2, "transpose: true")
        frozen = rng.choice([""] * 9 + ["param { lr_mult: 0 }"])
        return f"inner_product_param {{ {' '.join(said)} }} {frozen}"
    if kind in ("Convolution", "Deconvolution", "Im2col"):
        group, size = rng.choice([1, 1, 1, 2, shape[1]]), rng.choice([1, 2, 3, 3, 5])
        pad = rng.choice([0, 0, 1, 2]) if size > 1 else 0
        outputs = group * rng.randint(1, 4)
        own = "" if kind == "Im2col" else f"num_output: {outputs} group: {group} {FILLERS}"
        said = [own, f"kernel_size: {size} pad: {pad} stride: {rng.choice([1, 1, 2, 3])}"]
        return f"convolution_param {{ {' '.join(said + maybe(rng, 0.2, 'dilation: 2'))} }}"
    if kind in ("LSTM", "GRU", "RNN"):
        hidden = rng.choice(["", "", f"hidden_dropout {{ {drop_settings(rng, 3, OF_UNITS)} }}",
                             "hidden_dropout { dropout_ratio: 0.5 } hidden_dropout_type: CONVENTIONAL"])
        said = [f"num_output: {rng.randint(1, 8)} {FILLERS}", hidden]
        return f"recurrent_param {{ {' '.join(said + maybe(rng, 0.25, 'bidirectional: true'))} }}"
    size, lengths = rng.choice([2, 3]), [n for n in range(1, shape[-1] + 1) if shape[-1] % n == 0]
    rest = [n for n in range(1, 1 + int(np.prod(shape[1:]))) if np.prod(shape[1:]) % n == 0]
    order = " ".join(f"order: {i}" for i in rng.sample(range(len(shape)), len(shape)))
    return {
        "Attention": lambda: f"attention_param {{ num_heads: {rng.choice(lengths)} "
                             f"causal: {rng.choice(['true', 'false'])} }}",
        "BatchNorm": lambda: rng.choice(["", "batch_norm_param { use_global_stats: true }"]),
        "Bias": lambda: f"bias_param {{ axis: {axis} filler {{ type: 'uniform' }} }}",
        "Clip": lambda: "clip_param { min: -1 max: 0.7 }",
        "Concat": lambda: f"concat_param {{ axis: {axis} }}",
        "Crop": lambda: f"crop_param {{ axis: {axis} }}",
        "DropConnect": lambda: f"inner_product_param {{ num_output: {rng.randint(1, 11)} {FILLERS} }}",
        "Dropout": lambda: f"dropout_param {{ dropout_ratio: {rng.choice([0.3, 0.5])} }}",
        "Eltwise": lambda: f"eltwise_param {{ operation: {rng.choice(['SUM'] * 3 + ['PROD', 'MAX'])} }}",
        "Exp": lambda: f"exp_param {{ scale: -0.1 shift: {rng.choice([0, 0.2])} }}",
        "Flatten": lambda: rng.choice(["", "", f"flatten_param {{ axis: {axis} }}"]),
        "GaussianDropout": lambda: "dropout_param { dropout_ratio: 0.5 }",
        "LRN": lambda: f"lrn_param {{ local_size: {rng.choice([3, 5])} alpha: 0.5 "
                       f"norm_region: {rng.choice(['ACROSS_CHANNELS', 'WITHIN_CHANNEL'])} }}",
        "MVN": lambda: rng.choice(["", "mvn_param { across_channels: true }"]),
        "Patches": lambda: "patches_param { patch_size: 2 }",
        "Permute": lambda: f"permute_param {{ {order} }}",
        "Pooling": lambda: rng.choice([
            f"pooling_param {{ pool: {rng.choice(['MAX', 'AVE'])} global_pooling: true }}",
            f"pooling_param {{ pool: {rng.choice(['MAX', 'AVE', 'STOCHASTIC'])} kernel_size: {size} "
            f"stride: {rng.randint(1, 3)} pad: {rng.choice([0, 0, 1])} }}"]),
        "Power": lambda: f"power_param {{ power: {rng.choice([1, 1, 2])} scale: 0.5 "
                         f"shift: {rng.choice([0, 0.3])} }}",
        "ReLU": lambda: rng.choice(["", "", "relu_param { negative_slope: 0.1 }"]),
        "Reduction": lambda: f"reduction_param {{ axis: {axis} "
                             f"operation: {rng.choice(['SUM', 'MEAN', 'ASUM', 'SUMSQ'])} }}",
        "Reshape": lambda: f"reshape_param {{ shape {{ dim: 0 dim: {rng.choice(rest)} dim: -1 }} }}",
        "Scale": lambda: f"scale_param {{ axis: {axis} bias_term: {rng.choice(['true', 'false'])} "
                         f"filler {{ type: 'uniform' min: 0.5 max: 2 }} }}",
        "Slice": lambda: f"slice_param {{ axis: {axis} "
                         f"slice_point: {rng.randint(1, max(1, shape[-1] - 1))} }}",
        "Softmax": lambda: f"softmax_param {{ axis: {axis} }}",
        "SPP": lambda: f"spp_param {{ pyramid_height: 2 pool: {rng.choice(['MAX', 'AVE'])} }}",
        "Tile": lambda: f"tile_param {{ axis: {axis} tiles: {rng.randint(1, 3)} }}"}.get(kind, str)()


@dataclass
class Grown:
    """The layers of a net behind its inputs, as text, and {name: shape} of the inputs and of all blobs."""

    inputs: dict
    layers: list
    shapes: dict

    @property
    def ends(self):
        """The blobs that nothing reads, or not as they are in the end."""
        read = set()
        for text in self.layers:
            read = (read | set(re.findall(r'bottom: "(\w+)"', text))) - set(re.findall(r'top: "(\w+)"', text))
        return [name for name in self.shapes if name not in read and name != "cont"]

    def net(self, *more, **options):
        """The Net, with more layers behind, in float64 on the CPU unless the options say otherwise."""
        return Net(parse_net("\n".join([inputs_of(self.inputs), *self.layers, *more])),
                   **{"device": "cpu", "dtype": "float64", **options})

    @property
    def trainable(self):
        """Whether a gradient reaches a weight: otherwise there is nothing to train."""
        net = self.net(*self.losses())
        net.forward(**self.arrays(0))
        try:
            net.backward()
        except DataError:
            return False
        return True

    def random_inputs(self):
        """Layers that draw the inputs anew in every iteration, as text."""
        for name, shape in self.inputs.items():
            filler = 'type: "constant" value: 1' if name == "cont" else 'type: "gaussian" std: 1'
            dims = " ".join(f"dim: {n}" for n in shape)
            yield layer("DummyData", f"in_{name}", "", name,
                        f"dummy_data_param {{ shape {{ {dims} }} data_filler {{ {filler} }} }}")

    def losses(self):
        """A loss of each end, as text."""
        return [layer("Reduction", f"loss_{name}", name, more=(
            f"reduction_param {{ operation: {('SUMSQ', 'SUM', 'MEAN')[i % 3]} }} loss_weight: 0.1"))
            for i, name in enumerate(self.ends)]

    def arrays(self, seed):
        """Random inputs; `cont` is 0 or 1."""
        rng = np.random.default_rng(seed)
        return {name: (1.0 * (rng.random(shape) < 0.7) if name == "cont" else rng.standard_normal(shape))
                for name, shape in self.inputs.items()}


def inputs_of(shapes):
    """An Input layer, as text."""
    said = " ".join(f"shape {{ {' '.join(f'dim: {n}' for n in shape)} }}" for shape in shapes.values())
    return (f'layer {{ name: "in" type: "Input" {" ".join(f"""top: "{name}" """ for name in shapes)} '
            f"input_param {{ {said} }} }}")


def _candidate(rng, own, without):
    """Return (a layer as text, its tops)."""
    name, blobs = f"l{len(own.layers)}", [blob for blob in own.shapes if blob != "cont"]
    bottom = rng.choice(blobs[-2:] if rng.random() < 0.75 else blobs)
    shape = own.shapes[bottom]
    kinds = [*["ApproxDropout"] * 14, *["InnerProduct"] * 9, *["Eltwise"] * 6, *["ReLU"] * 4, *OTHERS,
             *(IMAGES if len(shape) == 4 else ()), *(["Convolution"] * 14 if len(shape) == 4 else ()),
             *(SEQUENCES * 2 if len(shape) == 3 else ())]
    kind = rng.choice([kind for kind in kinds if kind not in without])
    others = [blob for blob in blobs if blob != bottom and len(own.shapes[blob]) == len(shape)]
    alike = [blob for blob in others if own.shapes[blob] == shape]
    bottoms = [bottom]
    if kind in ("Concat", "Crop", "Eltwise"):
        found = alike if kind == "Eltwise" else others
        bottoms += rng.sample(found, min(len(found), 1 if kind == "Crop" else rng.randint(1, 2)))
    elif kind == "Attention":
        bottoms += [rng.choice([bottom, *alike]) for _ in range(2)]
    elif kind in ("GRU", "LSTM", "RNN", "LastState") and shape[:2] == own.inputs.get("cont"):
        bottoms += ["cont"]
    tops = [bottom if kind in IN_PLACE and rng.random() < 0.4 else name]
    tops += [f"{name}b"] if kind in ("Slice", "Split") else []
    more = " ".join([*(f'top: "{top}"' for top in tops[1:]), settings_of(kind, rng, shape)])
    return layer(kind, name, " ".join(bottoms), tops[0], more), tops


def grown(seed, without=(), inputs=None):
    """Return the Grown of a seed, without some layer types; `inputs` {name: shape}, at random if None."""
    rng = random.Random(seed)
    if inputs is None:
        samples, size = rng.choice([1, 2, 3, 4, 5, 7]), rng.randint(3, 8)
        data = rng.choice([(samples, rng.randint(2, 15)), (rng.randint(1, 6), samples, rng.randint(2, 12)),
                           (samples, rng.randint(1, 8), size, rng.randint(3, 8))])
        inputs = {"data": data} | ({"cont": data[:2]} if len(data) == 3 else {})
    own, target = Grown(inputs, [], dict(inputs)), rng.randint(4, 14)
    for _ in range(8 * target):
        text, tops = _candidate(rng, own, without)
        parse_net(text)         # a field that does not exist is a mistake of this file
        try:
            net = own.net(text, fills=False)
        except MinidropError:
            continue
        shapes = {ref.name: tuple(shape) for ref, shape in sorted(net.graph.shapes.items())}
        own.layers.append(text)
        own.shapes = {name: shapes[name] for name in (*(one for one in own.shapes if one not in tops), *tops)}
        if len(own.layers) == target:
            break
    return own
