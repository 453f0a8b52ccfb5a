"""NetSpec: describes a network in Python instead of in a file; the result is the same NetParameter.

    n = NetSpec("mlp")
    n.data, n.label = layers.HDF5Data(ntop=2, source="mnist/train.txt", batch_size=128)
    n.ip1 = layers.InnerProduct(n.data, num_output=1024, weight_filler={"type": "msra"})
    n.relu1 = layers.ReLU(n.ip1, in_place=True)
    n.loss = layers.SoftmaxWithLoss(n.relu1, n.label)
    net = Net(n.to_proto())

or, if names come from a loop, n.add("InnerProduct", name="ip1", bottom="data", num_output=1024).
"""

import os
from collections import Counter, UserDict
from collections.abc import Mapping
from typing import Any

from minidrop.config import minidrop_pb2
from minidrop.config.assign import assign
from minidrop.config.fields import layer_types, param_fields, unknown_type
from minidrop.config.load import NetConfig, load_net
from minidrop.config.minidrop_pb2 import LayerParameter, NetParameter
from minidrop.errors import ConfigError, in_short, nearest


class Top:
    """One output blob of a layer that a NetSpec describes; `name` is the one that NetSpec.add gave it."""

    def __init__(self, layer: Any, index: int):
        self.layer, self.index = layer, index
        self.name: str | None = None

    @property
    def fn(self) -> Any:
        """The layer, by pycaffe's name."""
        return self.layer

    @property
    def n(self) -> int:
        """The number of the blob among the layer's tops."""
        return self.index

    def to_proto(self) -> Any:
        """Return the NetParameter of this blob's layer and of all that it reads; others get names."""
        return to_proto(self)


class LayerSpec:
    """One layer: its type, bottoms (Tops or blob names), tops, and settings.

    In pycaffe's words: `type_name`, `inputs`, `ntop`, `params`.
    """

    def __init__(self, type: str, bottoms: Any, ntop: int = 1, in_place: bool = False, **settings: Any):
        if in_place and not (len(bottoms) == ntop == 1):
            raise ConfigError(f"a {type} layer in place takes one bottom and one top, got {len(bottoms)} and "
                              f"{ntop}")
        self.type, self.in_place, self.settings = type, in_place, settings
        self.bottoms = tuple(blob if isinstance(blob, Top) else _blob_name(blob, type) for blob in bottoms)
        self.tops = tuple(Top(self, i) for i in range(ntop))
        self.type_name, self.inputs, self.params, self.ntop = type, self.bottoms, settings, ntop


class _Layers:
    """layers.TYPE(*bottoms, ntop=1, in_place=False, **settings) -> its Top, a tuple of them, or with ntop=0
    the LayerSpec."""

    def __getattr__(self, type):
        if type.startswith("_"):
            raise AttributeError(type)

        def build(*bottoms, **settings):
            layer = LayerSpec(type, bottoms, **settings)
            return (layer.tops[0] if len(layer.tops) == 1 else layer.tops) if layer.tops else layer
        return build


class _Values:
    """What params.Pooling is: the names in PoolingParameter, such as the values of its enums; called, it
    makes such a message."""

    def __init__(self, message):
        self._message = message

    def __call__(self, *args, **fields):
        return self._message(*args, **fields)

    def __dir__(self):
        return dir(self._message)

    def __getattr__(self, name):
        if name == "_message" or name.startswith("__"):     # of a copy that has none yet; Python's own
            raise AttributeError(name)
        try:
            return getattr(self._message, name)
        except AttributeError:
            values = list(self._message.DESCRIPTOR.enum_values_by_name)
            raise AttributeError(f"{self._message.__name__} has no value {name!r}{nearest(name, values)} "
                                 f"(values: {', '.join(values) or 'none'})") from None


class _Params:
    """params.Pooling.MAX -> the value of an enum of PoolingParameter, and so on."""

    def __getattr__(self, name):
        message = getattr(minidrop_pb2, f"{name}Parameter", None)
        if message is None:
            messages = minidrop_pb2.DESCRIPTOR.message_types_by_name
            known = [found.removesuffix("Parameter") for found in messages if found.endswith("Parameter")]
            raise AttributeError(f"there is no message {name}Parameter{nearest(name, known)}")
        return _Values(message)


layers, params = _Layers(), _Params()


class _Tops(UserDict):
    """{name: its Top, or a layer without tops}, as a script may change it.

    `roots` are what the net is made for, in order: by their names what got one here, and by itself each layer
    that NetSpec.add made, which stays when another takes the names of its blobs.
    """

    def __init__(self):
        self.roots = {}
        super().__init__()

    def __setitem__(self, name, top):
        if not isinstance(top, Top) and (not isinstance(top, LayerSpec) or top.tops):
            got = type(top).__name__
            raise ConfigError(f"NetSpec.{name}: expected what layers.TYPE(...) returns, got {got}")
        self.data[name] = self.roots[name] = top

    def __delitem__(self, name):
        del self.data[name]
        self.roots.pop(name, None)


class NetSpec:
    """A network under construction; setting an attribute to a Top names its blob and layer.

    `tops` is {name: Top, or layer without tops}. What is not reached from them is no part of the net, apart
    from layers that `add` made. What got no name is called by its type and a number, as in "ReLU1".
    """

    tops: _Tops

    def __init__(self, name: str = ""):
        self.__dict__.update(_net_name=name, tops=_Tops())

    def __setattr__(self, name, top):
        self.tops[name] = top

    def __getattr__(self, name):
        tops = self.__dict__.get("tops", {})
        if name not in tops:
            raise AttributeError(f"the network has no blob {name!r}{nearest(name, tops)}")
        return tops[name]

    __setitem__, __getitem__ = __setattr__, __getattr__

    def keys(self) -> list[str]:
        """Return the names of `tops`."""
        return list(self.tops)

    def vals(self) -> list[Any]:
        """Return the values of `tops`."""
        return list(self.tops.values())

    def update(self, name: str, settings: dict) -> None:
        """Change settings of the layer that writes the blob `name`."""
        _layer_of(self[name]).settings.update(settings)

    def add(self, type: str, name: str, bottom: Any = (), top: Any = None, **settings: Any) -> Any:
        """Add a layer and return its Top, a tuple of them, or () for a layer without tops.

        `bottom` and `top` are one blob or a list; a bottom is a Top or a blob's name, `top` is [name] by
        default. A setting is a field of LayerParameter or of the type's own message; raises ConfigError for
        any other.
        """
        bottoms = [bottom] if isinstance(bottom, str | Top) else list(bottom)
        tops = [name] if top is None else [top] if isinstance(top, str) else list(top)
        layer = LayerSpec(type, bottoms, len(tops), name=name, **settings)
        for blob, one in zip(tops, layer.tops, strict=True):
            one.name = _blob_name(blob, type)
        self.tops.roots[layer] = layer
        self.tops.data.update((one.name, one) for one in layer.tops)
        return layer.tops[0] if len(layer.tops) == 1 else layer.tops

    def to_proto(self) -> Any:
        """Return the NetParameter; raises ConfigError with the layer and setting that does not fit."""
        net = NetParameter()
        if self._net_name:
            assign(net, "name", self._net_name, "NetSpec")
        layers = _in_order(map(_layer_of, self.tops.roots.values()))
        names = _Names(self.tops.roots, layers)
        blobs: dict = {}
        for layer in layers:
            bottoms = [bottom if isinstance(bottom, str) else blobs[bottom] for bottom in layer.bottoms]
            tops = bottoms if layer.in_place else [names.of(top, layer.type) for top in layer.tops]
            blobs.update(zip(layer.tops, tops, strict=True))
            name = layer.settings.get("name") or names.of(layer.tops[0] if tops else layer, layer.type)
            settings = {"name": name, "bottom": bottoms, "top": tops}
            set_layer(net.layer.add(), layer.type, settings | layer.settings)
        return net


class _Names:
    """The names of tops, and of layers without tops: those given, for others the next of their type."""

    def __init__(self, roots, layers):
        self.given = {top: name for name, top in roots.items() if top is not name}
        self.given.update((top, top.name) for layer in layers for top in layer.tops if top.name is not None)
        self.taken = {*self.given.values(), *(str(layer.settings.get("name")) for layer in layers)}
        self.counts: Counter = Counter()

    def of(self, thing, type):
        while thing not in self.given:
            self.counts[type] += 1
            name = f"{type}{self.counts[type]}"
            if name not in self.taken:
                self.given[thing] = name
        return self.given[thing]


def _layer_of(top):
    return top.layer if isinstance(top, Top) else top


def _in_order(layers):
    """Return layers and all that they read, each once and after what it reads itself."""
    done: dict = {}
    for layer in layers:
        waiting = [layer]
        while waiting:
            read = [bottom.layer for bottom in waiting[-1].bottoms if isinstance(bottom, Top)]
            if missing := [other for other in read if other not in done]:
                waiting.extend(reversed(missing))
            else:
                done[waiting.pop()] = True
    return list(done)


def to_proto(*tops: Top) -> Any:
    """Return the NetParameter of the layers of these Tops and of all that they read; see NetSpec.to_proto.

    No attribute names them, so all are called by their type and a number.
    """
    net = NetSpec()
    for top in tops:
        layer = _layer_of(top)
        net.tops.roots[layer] = layer
    return net.to_proto()


def _blob_name(name, type):
    if not isinstance(name, str):
        kind = name.__class__.__name__
        raise ConfigError(f"a {type} layer's blobs are given as layers or as names, got {kind}; a layer with "
                          "several tops gives a tuple: take one of it")
    return name


def set_layer(message: LayerParameter, type: str, settings: Mapping[str, Any]) -> None:
    """Set the type of a LayerParameter, and fields of it or of the messages of its type, among them its name.

    Raises ConfigError, which names the layer, for a setting that the type has not, or a value that does not
    fit.
    """
    message.type = type
    for field, value in settings.items():
        _set(message, field, value, f"layer {in_short(settings['name'])} ({type})")


def _set(layer, name, value, where):
    """Set a field of the layer, or of the messages of its type; Python has a param_str of its own."""
    if name in LayerParameter.DESCRIPTOR.fields_by_name and (layer.type, name) != ("Python", "param_str"):
        return assign(layer, name, value, where)
    known = set(LayerParameter.DESCRIPTOR.fields_by_name)
    for param in param_fields(layer.type):
        message = LayerParameter.DESCRIPTOR.fields_by_name[param].message_type
        if name in message.fields_by_name:
            return assign(getattr(layer, param), name, value, where)
        known |= set(message.fields_by_name)
    if layer.type not in layer_types:
        raise ConfigError(f"{where}: {unknown_type(layer.type)}")
    raise ConfigError(f"{where}: has no setting {name!r}{nearest(name, sorted(known))}")


def as_net_config(source: NetConfig | NetParameter | NetSpec | str | os.PathLike) -> NetConfig:
    """Return the NetConfig of a description of a net or the path of a file; otherwise raises ConfigError."""
    if isinstance(source, NetConfig):
        return source
    if isinstance(source, NetParameter):
        return NetConfig.of(source)
    if isinstance(source, NetSpec):
        return NetConfig.of(source.to_proto())
    if isinstance(source, str | os.PathLike):
        return load_net(os.fspath(source))
    raise ConfigError(f"a net is built from a NetConfig, NetParameter, NetSpec or path, got "
                      f"{type(source).__name__}")
