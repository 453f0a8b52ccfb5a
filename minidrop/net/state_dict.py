"""Weights in the names and forms of a PyTorch state_dict, both ways, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.errors import MOST_MISTAKES, ConfigError, SnapshotError, nearest
from minidrop.net.given import given_net
from minidrop.net.loading import copy_values, is_finite
from minidrop.net.torch_modules import Form, NoModule, form_of, known_forms, refuse_bias, scale_behind

if TYPE_CHECKING:
    from minidrop.net.net import Net

COUNTER = "num_batches_tracked"         # of a BatchNorm2d, which only some of its settings read

Mapped = Mapping[str, Any]
"""{layer: the name of its module, "" for none; (name, number) of one layer of an LSTM of several; None: the
layer is left out}."""


@dataclass
class _Part:
    """A layer, with the Scale behind a BatchNorm, and what its module is called."""

    layer: Any
    form: Form
    names: dict[str, str]       # {name in the form: "layer/parameter"}
    module: str
    number: int

    def key(self, end: str) -> str:
        """Return the key of an array of the module."""
        if self.number:
            end = end.replace("_l0", f"_l{self.number}", 1)
        return f"{self.module}.{end}" if self.module and end else self.module or end


def to_torch_state_dict(net: Net, mapping: Mapped | None = None) -> dict[str, np.ndarray]:
    """Return the weights of a net as a PyTorch state_dict: {"layer.weight": NumPy array}, in new arrays.

    Each layer stands for the module that computes the same: InnerProduct Linear, Convolution Conv2d (Conv1d,
    Conv3d), Deconvolution ConvTranspose2d, BatchNorm with the Scale behind it BatchNorm2d, Embed Embedding
    (its bias added to each row), LSTM, GRU, RNN (without output_product), LayerNorm, RMSNorm, PReLU, a
    learned Position an Embedding. A module that is called several times adds its keys once, under the name of
    its first call. To load them: module.load_state_dict({key: torch.from_numpy(array) for ...}).

    mapping: {layer: name of its module}, by default the layer's; of both layers of an nn.BatchNorm its own;
    (name, number) for layer `number` of an LSTM, GRU or RNN of several; None leaves a layer out. Raises
    ConfigError that lists the layers without such a module.
    """
    return {key: np.array(array, order="C") for part, arrays in _written(net, mapping)
            for key, array in ((part.key(end), array) for end, array in arrays.items())}


def from_torch_state_dict(net: Net, state: Mapping[str, Any], mapping: Mapped | None = None) -> None:
    """Copy the weights of a PyTorch state_dict to a net; the inverse of `to_torch_state_dict`.

    state: {key: array}, NumPy's or PyTorch's on the CPU. mapping: as there. Of a recurrent module's two
    biases an LSTM and an RNN have the sum; eps and other settings are not part of a state_dict. Layers whose
    modules are X.q, X.k, X.v and X.out, as those of an nn.MultiHeadAttention, also read the keys of an
    nn.MultiheadAttention X: in_proj_weight, in_proj_bias, out_proj.weight and so on. Raises ConfigError as
    that does, and SnapshotError, which names the keys, for missing and unknown ones, shapes, and what are no
    finite numbers; then nothing is changed.
    """
    parts = [(part, {part.key(end): (end, array.shape) for end, array in arrays.items()})
             for part, arrays in _written(net, mapping, state)]
    expected = {key: shape for _, own in parts for key, (_, shape) in own.items()}
    state = _apart(state, expected)
    _check_keys(state, expected)
    arrays = {key: _checked(key, state[key], shape, net.dtype) for key, shape in expected.items()
              if key in state}
    values: dict[str, np.ndarray] = {}
    for part, own in parts:
        given = {end: arrays[key] for key, (end, _) in own.items() if key in arrays}
        for name, array in part.form.read(part.layer, given).items():
            if name not in part.names:
                refuse_bias(part.key(name), array)
            else:
                values[part.names[name]] = array
    copy_values(net, _each_once(net, values).items())


def _written(net, mapping, given=()) -> Iterator[tuple[_Part, dict[str, np.ndarray]]]:
    """Yield each _Part and the arrays of its module, {end of the key: array}; raises ConfigError.

    given: the keys of a state_dict; a further use of a module is yielded if it has some of its own there.
    """
    mapping, wrong = dict(mapping or {}), []
    net = given_net(net)
    for layer in mapping:
        if layer not in net.params:
            raise ConfigError(f"mapping: the net has no layer {layer!r} with parameters"
                              f"{nearest(layer, net.params)} (it has: {', '.join(net.params) or 'none'})")
    found, scales = [], set()
    for node in net.graph.nodes:
        if node.name not in net.params or node.name in scales:
            continue
        names = {own: f"{node.name}/{own}" for own in net.params[node.name]}
        scale = scale_behind(net.graph, node) if node.config.type == "BatchNorm" else None
        if scale is not None:
            scales.add(scale.name)
            names |= {own: f"{scale.name}/{own}" for own in net.params[scale.name]}
        module = mapping.get(node.name, _module_of(node.name, scale and scale.name))
        is_silent = node.name not in mapping and _is_further_use(net, node.name) and not any(
            str(key).startswith(f"{module}.") for key in given)
        if module is None or is_silent:
            continue
        name, number = module if isinstance(module, tuple) else (module, 0)
        form = form_of(node.config.type)
        try:
            if form is None:
                raise NoModule("no module of PyTorch has such parameters (those that have: "
                               f"{', '.join(known_forms())})")
            part = _Part(node.layer, form, names, str(name), int(number))
            arrays = {own: _host(net, full) for own, full in names.items()}
            found.append((part, form.write(node.layer, arrays)))
        except NoModule as error:
            where = net.config.where(node.index)
            wrong.append(f"{where}: layer {node.name!r} ({node.config.type}): {error}; or leave the layer "
                         f"out with mapping={{{node.name!r}: None}}")
    if wrong:
        raise ConfigError.of(wrong)
    yield from found


def _is_further_use(net, name):
    """Whether a layer is another call of a module: NAME_2, all of whose parameters are those of NAME."""
    first, _, number = name.rpartition("_")
    own, others = net.params[name], net.params.get(first, {})
    return number.isdecimal() and own.keys() == others.keys() and all(
        own[end] is others[end] for end in own)


def _module_of(name, scale):
    """Return what a layer's module is called by default. An nn.BatchNorm has two layers, named after it."""
    module = name.removesuffix(".norm")
    return module if module != name and scale == f"{module}.scale" else name


def _host(net, name):
    layer, _, parameter = name.rpartition("/")
    return net.backend.to_host(net.params[layer][parameter].data)


def _apart(state, expected):
    """Return a state in which each nn.MultiheadAttention X has the keys of X.q, X.k, X.v and X.out.

    The net has these four; PyTorch keeps the first three in one array, or gives them names of their own.
    """
    found = dict(state)
    for first in [key.removesuffix("q.weight") for key in expected if f".{key}".endswith(".q.weight")]:
        if any(f"{first}{part}.weight" in state or f"{first}{part}.weight" not in expected
               for part in ("q", "k", "v", "out")):
            continue
        for end in ("weight", "bias"):
            _rename(found, f"{first}out_proj.{end}", f"{first}out.{end}")
            names = [f"{first}{part}.{end}" for part in "qkv" if f"{first}{part}.{end}" in expected]
            for name in names:
                _rename(found, f"{first}{name.removeprefix(first)[0]}_proj_{end}", name)
            joined = f"{first}in_proj_{end}"
            if found.get(joined) is None or len(names) < 3:
                continue
            array, rows = _array(joined, found.pop(joined)), [expected[name][0] for name in names]
            if array.shape[:1] != (sum(rows),):
                raise SnapshotError(f"state_dict: {joined!r} has shape {array.shape}, this net expects the "
                                    f"rows of {', '.join(names)}, {' + '.join(map(str, rows))}")
            found |= zip(names, np.split(array, np.cumsum(rows)[:-1]), strict=True)
    return found


def _rename(state, old, new):
    if old in state:
        state[new] = state.pop(old)


def _check_keys(state, expected):
    """Raise SnapshotError for keys that are missing, and for those that no layer reads."""
    missing = [f"expected the key {key!r}, of shape {shape}, got none{nearest(key, state)}"
               for key, shape in expected.items() if key not in state and not key.endswith(COUNTER)]
    unknown = [f"no layer reads the key {str(key)[:80]!r}{nearest(key, expected)}" for key in state
               if key not in expected and not str(key).endswith(COUNTER)]
    wrong = missing + unknown
    if wrong:
        more = [f"... and {len(wrong) - MOST_MISTAKES} more"] * (len(wrong) > MOST_MISTAKES)
        raise SnapshotError.saying([*(f"state_dict: {line}" for line in wrong[:MOST_MISTAKES]), *more,
                                    "Modules of other names: give mapping={layer: module}"])


def _array(key, value):
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SnapshotError(f"state_dict: {key!r} is no array of numbers ({error}); give value.float().cpu()"
                            ) from None


def _checked(key, value, shape, dtype):
    """Return an array of a state_dict as floats; raises SnapshotError."""
    array = _array(key, value)
    if array.dtype.kind not in "biuf":
        raise SnapshotError(f"state_dict: {key!r}: expected an array of numbers, got one of {array.dtype}")
    if array.shape != shape:
        raise SnapshotError(f"state_dict: {key!r} has shape {array.shape}, this net expects {shape}")
    if not is_finite(array, dtype):
        raise SnapshotError(f"state_dict: {key!r} has a NaN, an infinity or a number too large for {dtype}")
    return array if array.dtype.kind == "f" else array.astype(dtype)


def _each_once(net, values):
    """Return {first name of a parameter: array}; raises SnapshotError where layers that share it differ."""
    found = {}
    for first, names in net.owners().items():
        given = [name for name in names if name in values]
        for name in given[1:]:
            if not np.array_equal(values[name], values[given[0]]):
                raise SnapshotError(f"state_dict: {given[0]} and {name} are one array in this net, but the "
                                    f"values for them differ")
        if given:
            found[first] = values[given[0]]
    return found
