"""A net in other shapes of its inputs: all of it, or the layers up to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from minidrop.errors import ConfigError

if TYPE_CHECKING:
    from minidrop.autograd import Tensor
    from minidrop.config import NetConfig
    from minidrop.net.net import Net


def rebuild(net: Net, inputs: Mapping[str, Tensor]) -> None:
    """Fit a net to inputs of other shapes, {name: Tensor}, with the same parameters.

    Raises ConfigError, and leaves it as it is, where its layers or parameters do not fit them.
    """
    try:
        net.replace_by(_reshaped(net, inputs))
    except ConfigError as error:
        raise _misfit(net, inputs, error) from None
    net.set_inputs(**inputs)


def front_of(net: Net, inputs: Mapping[str, Tensor], count: int) -> Net:
    """Return a net of the first `count` layers of another, which uses its parameters, for other inputs.

    Layers behind may not fit those. It goes on in the data and the draws. Raises ConfigError where the first
    layers do not fit them either.
    """
    config = _reshaped(net, inputs)
    del config.message.layer[count:]
    try:
        front = net.derived(config)
    except ConfigError as error:
        raise _misfit(net, inputs, error) from None
    for name, layer in front.layers.items():
        layer.adopt(net.layers[name])
    front.set_inputs(**{name: inputs[name] for name in front.inputs if name in inputs})
    return front


def _reshaped(net: Net, inputs: Mapping[str, Tensor]) -> NetConfig:
    """Return the description of a net with inputs of other shapes."""
    message = type(net.config.message)()
    message.CopyFrom(net.config.message)
    for layer in message.layer:
        if layer.type != "Input" or not inputs.keys() & set(layer.top):
            continue
        old = [list(shape.dim) for shape in layer.input_param.shape]
        old = old if len(old) > 1 else old * len(layer.top)
        layer.input_param.ClearField("shape")
        for top, shape in zip(layer.top, old, strict=True):
            new = inputs[top].shape if top in inputs else shape
            layer.input_param.shape.add().dim.extend(new)
    return replace(net.config, message=message)


def _misfit(net, inputs, error):
    """Return the error of a net that does not fit its inputs, which names them and both their shapes."""
    built = {name: shape for node in net.graph.nodes if node.config.type == "Input"
             for name, shape in node.layer.shapes.items()}
    changes = ", ".join(f"{name!r} from {built[name]} to {tensor.shape}" for name, tensor in inputs.items())
    return ConfigError(f"the net does not fit what its inputs were reshaped to ({changes}): {error}")
