"""Network and solver descriptions: schema, files, rules, overrides, and building them in Python."""

from minidrop.config.check import is_repeated
from minidrop.config.fields import all_param_fields, layer_types, param_fields, unknown_type
from minidrop.config.load import (
    NetConfig,
    SolverConfig,
    decimal,
    load_net,
    load_solver,
    parse_net,
    parse_solver,
)
from minidrop.config.minidrop_pb2 import (
    TEST,
    TRAIN,
    FillerParameter,
    LayerParameter,
    NetParameter,
    NetState,
    SolverParameter,
)
from minidrop.config.nets import NetChoice, solver_nets
from minidrop.config.overrides import apply_overrides, split_overrides
from minidrop.config.source_map import SourceMap
from minidrop.config.spec import NetSpec, as_net_config, layers, params, to_proto
from minidrop.config.state import filter_state

__all__ = [
    "FillerParameter", "LayerParameter", "NetChoice", "NetConfig", "NetParameter", "NetSpec", "NetState",
    "SolverConfig", "SolverParameter", "SourceMap", "TEST", "TRAIN", "all_param_fields",
    "apply_overrides", "as_net_config", "decimal", "filter_state", "is_repeated", "layer_types", "layers",
    "load_net", "load_solver", "param_fields", "params", "parse_net", "parse_solver", "solver_nets",
    "split_overrides", "to_proto", "unknown_type",
]
