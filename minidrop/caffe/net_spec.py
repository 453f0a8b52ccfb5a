"""caffe.net_spec: nets described in Python, by pycaffe's names."""

from minidrop.config.spec import LayerSpec as Function
from minidrop.config.spec import NetSpec, Top, layers, params, to_proto

__all__ = ["Function", "NetSpec", "Top", "layers", "params", "to_proto"]
