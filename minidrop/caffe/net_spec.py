"""caffe.net_spec: nets described in Python, by pycaffe's names."""

from typing import Any

from minidrop.config.assign import assign
from minidrop.config.spec import LayerSpec as Function
from minidrop.config.spec import NetSpec, Top, layers, params, to_proto

__all__ = ["Function", "NetSpec", "Top", "assign_proto", "layers", "params", "to_proto"]


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Set a field of a message from plain Python values; a list replaces what a repeated field holds."""
    assign(proto, name, val, "assign_proto")
