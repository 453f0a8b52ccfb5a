"""NetSpec: describes a network in Python instead of in a file; the result is the same NetParameter.

    n = NetSpec("mlp")
    n.data, n.label = layers.HDF5Data(ntop=2, source="mnist/train.txt", batch_size=128)
    n.ip1 = layers.InnerProduct(n.data, num_output=1024, weight_filler={"type": "msra"})
    n.relu1 = layers.ReLU(n.ip1, in_place=True)
    n.loss = layers.SoftmaxWithLoss(n.relu1, n.label)
    net = Net(n.to_proto())

or, if names come from a loop, n.add("InnerProduct", name="ip1", bottom="data", num_output=1024).
"""

import operator
import os
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as F

from minidrop.config import minidrop_pb2
from minidrop.config.check import FLOAT32_END, expected, is_character, is_repeated
from minidrop.config.fields import param_fields
from minidrop.config.load import NetConfig, load_net
from minidrop.config.minidrop_pb2 import LayerParameter, NetParameter
from minidrop.errors import ConfigError, nearest


class Top:
    """One output blob of a layer that a NetSpec describes."""

    def __init__(self, layer: Any, index: int | None):
        self.layer, self.index, self.name = layer, index, None

    def to_proto(self) -> Any:
        """Return the NetParameter of this blob's layer and of all that it reads; others get names."""
        return to_proto(self)


class LayerSpec:
    """One layer: its type, bottoms (Tops or blob names), number of tops, and settings."""

    def __init__(self, type: str, bottoms: Any, ntop: int = 1, in_place: bool = False, **settings: Any):
        if in_place and not (len(bottoms) == ntop == 1):
            raise ConfigError(f"a {type} layer in place takes one bottom and one top, got {len(bottoms)} and "
                              f"{ntop}")
        self.type, self.in_place, self.settings = type, in_place, settings
        self.bottoms = tuple(blob if isinstance(blob, Top) else _blob_name(blob, type) for blob in bottoms)
        self.tops = tuple(Top(self, i) for i in range(ntop))


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


class _Params:
    """params.Pooling.MAX -> the value of an enum of PoolingParameter, and so on."""

    def __getattr__(self, name):
        message = getattr(minidrop_pb2, f"{name}Parameter", None)
        if message is None:
            raise AttributeError(f"there is no message {name}Parameter")
        return message


layers, params = _Layers(), _Params()


class NetSpec:
    """A network under construction; setting an attribute to a Top names its blob and layer."""

    def __init__(self, name: str = ""):
        self.__dict__.update(_net_name=name, _tops={}, _order=[])

    def __setattr__(self, name, top):
        if isinstance(top, LayerSpec) and not top.tops:
            top.settings.setdefault("name", name)
            self._enter(top)
            return
        if not isinstance(top, Top):
            got = type(top).__name__
            raise ConfigError(f"NetSpec.{name}: expected what layers.TYPE(...) returns, got {got}")
        self._name(name, top)
        self._enter(top.layer)

    def __getattr__(self, name):
        try:
            return self.__dict__["_tops"][name]
        except KeyError:
            raise AttributeError(f"the network has no blob {name!r}"
                                 f"{nearest(name, self.__dict__.get('_tops', ()))}") from None

    __setitem__ = __setattr__

    def __getitem__(self, name):
        return getattr(self, name)

    @property
    def tops(self) -> dict[str, Top]:
        """{name: Top} of the blobs that have one, in the order in which they got it."""
        return dict(self._tops)

    def keys(self) -> list[str]:
        """Return the names of `tops`."""
        return list(self._tops)

    def vals(self) -> list[Top]:
        """Return the Tops of `tops`."""
        return list(self._tops.values())

    def update(self, name: str, settings: dict) -> None:
        """Change settings of the layer that writes the blob `name`."""
        getattr(self, name).layer.settings.update(settings)

    def add(self, type: str, name: str, bottom: Any = (), top: Any = None, **settings: Any) -> Any:
        """Add a layer and return its Top, a tuple of them, or () for a layer without tops.

        `bottom` and `top` are one blob or a list; a bottom is a Top or a blob's name, `top` is [name] by
        default. A setting is a field of LayerParameter or of the type's own message; raises ConfigError for
        any other.
        """
        bottoms = [bottom] if isinstance(bottom, str | Top) else list(bottom)
        tops = [name] if top is None else [top] if isinstance(top, str) else list(top)
        layer = LayerSpec(type, bottoms, len(tops), name=name, **settings)
        self._enter(layer)
        for blob, one in zip(tops, layer.tops, strict=True):
            self._name(_blob_name(blob, type), one)
        return layer.tops[0] if len(layer.tops) == 1 else layer.tops

    def to_proto(self) -> Any:
        """Return the NetParameter; raises ConfigError with the layer and setting that does not fit."""
        net, blobs = NetParameter(), {}
        if self._net_name:
            assign(net, "name", self._net_name, "NetSpec")
        for number, layer in enumerate(self._order, 1):
            first = layer.tops[0].name if layer.tops else None
            name = layer.settings.get("name") or first or f"{layer.type.lower()}{number}"
            bottoms = [bottom if isinstance(bottom, str) else blobs[bottom] for bottom in layer.bottoms]
            for top in layer.tops:
                blobs[top] = top.name or (f"{name}_{top.index}" if top.index else name)
            if layer.in_place:
                blobs[layer.tops[0]] = bottoms[0]
            message = net.layer.add()
            tops = [blobs[top] for top in layer.tops]
            settings = {"name": name, "type": layer.type, "bottom": bottoms, "top": tops}
            for field, value in (settings | layer.settings).items():
                _set(message, field, value, f"layer {name!r} ({layer.type})")
        return net

    def _name(self, name, top):
        top.name = top.name or name
        self._tops[name] = top

    def _enter(self, layer):
        """Append a layer to the running order, after the layers that it reads."""
        waiting = [layer]
        while waiting:
            readers = [bottom.layer for bottom in waiting[-1].bottoms if isinstance(bottom, Top)]
            missing = [other for other in readers if other not in self._order]
            if missing:
                waiting.extend(missing)
                continue
            layer = waiting.pop()
            if layer not in self._order:
                self._order.append(layer)


def to_proto(*tops: Top) -> Any:
    """Return the NetParameter of the layers of these Tops and of all that they read; see NetSpec.to_proto."""
    net = NetSpec()
    for top in tops:
        net._enter(top.layer)
    return net.to_proto()


def _blob_name(name, type):
    if not isinstance(name, str):
        kind = name.__class__.__name__
        raise ConfigError(f"a {type} layer's blobs are given as layers or as names, got {kind}; a layer with "
                          "several tops gives a tuple: take one of it")
    return name


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
    raise ConfigError(f"{where}: has no setting {name!r}{nearest(name, sorted(known))}")


def assign(message: Any, name: str, value: Any, where: str = "") -> None:
    """Set a field from plain Python values: dicts for messages, lists for repeated fields, names for enums.

    A BlobShape may be a list of integers. Raises ConfigError, prefixed with `where`, for a value that does
    not fit.
    """
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise ConfigError(f"{where}: {message.DESCRIPTOR.name} has no field {name!r}"
                          f"{nearest(name, message.DESCRIPTOR.fields_by_name)}")
    if not is_repeated(field):
        if field.message_type is None:
            setattr(message, name, _scalar(field, value, where))
        else:
            _fill(getattr(message, name), value, name, where)
        return
    if field.message_type is None:
        values = _plain(value) if isinstance(_plain(value), list) else [value]
        del getattr(message, name)[:]
        getattr(message, name).extend(_scalar(field, one, where) for one in values)
        return
    value = _plain(value)
    one = isinstance(value, dict) or (field.message_type.name == "BlobShape" and isinstance(value, list)
                                      and not any(isinstance(_plain(part), list | dict) for part in value))
    message.ClearField(name)
    for part in [value] if one else value if isinstance(value, list) else [value]:
        _fill(getattr(message, name).add(), part, name, where)


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _fill(message, value, name, where):
    value = _plain(value)
    if message.DESCRIPTOR.name == "BlobShape" and isinstance(value, list):
        value = {"dim": value}
    if isinstance(value, type(message)):
        message.CopyFrom(value)
    elif isinstance(value, dict):
        message.SetInParent()
        for key, part in value.items():
            assign(message, key, part, where)
    else:
        kind = message.DESCRIPTOR.name
        raise ConfigError(f"{where}: '{name}' takes a dict of {kind}'s fields, got {value!r}")


def _scalar(field, value, where):
    wanted = expected(field).replace(" in quotes", "")
    problem = ConfigError(f"{where}: '{field.name}' takes {wanted}, got {value!r}")
    if field.type == F.TYPE_ENUM and isinstance(value, str):
        if value not in field.enum_type.values_by_name:
            raise problem
        return field.enum_type.values_by_name[value].number
    if field.type == F.TYPE_STRING:
        if not isinstance(value, str) or not all(map(is_character, value)):
            raise problem
        return value
    if field.type == F.TYPE_BOOL:
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise problem
        return bool(value)
    try:
        if isinstance(value, str):
            raise problem
        number = float(value) if field.type == F.TYPE_FLOAT else operator.index(value)
        if not _FITS[field.type](number, field):
            raise problem
    except (TypeError, ValueError, OverflowError):
        raise problem from None
    return number


_FITS = {F.TYPE_INT32: lambda n, _: -2**31 <= n < 2**31, F.TYPE_UINT32: lambda n, _: 0 <= n < 2**32,
         F.TYPE_INT64: lambda n, _: -2**63 <= n < 2**63, F.TYPE_FLOAT: lambda n, _: abs(n) < FLOAT32_END,
         F.TYPE_ENUM: lambda n, field: n in field.enum_type.values_by_number}


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
