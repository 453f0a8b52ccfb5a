"""export_onnx: a trained net as an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from google.protobuf import text_format

from minidrop.apps.onnx.batch import find_axes, graph_of
from minidrop.apps.onnx.refused import reason_of
from minidrop.apps.onnx.writer import FLOAT, GraphWriter, LayerWriter, NotExportable, Shape, writer_of
from minidrop.apps.trained import load_all_weights
from minidrop.config import NetConfig, NetParameter, NetSpec, as_net_config
from minidrop.errors import BackendError, ConfigError, SnapshotError, nearest
from minidrop.files import replace
from minidrop.net import BlobRef, Net, Problems
from minidrop.net.deploy import Deployment, deployment, described
from minidrop.net.given import given_net
from minidrop.net.graph import Graph
from minidrop.net.loading import is_finite

OLDEST_OPSET, OPSET = 18, 18    # what all operators need that are written, and what is written unless asked
MOST_BYTES = (1 << 31) - 1      # of a protobuf message


@dataclass(frozen=True)
class Exported:
    """What an ONNX file reads and gives: {name: shape}, the batch by its name; and its size in bytes.

    transforms: {input: the transform_param, as text, that its data layer applied before}, which the file has
    as metadata. unread: the inputs of the net that the file does not have, as nothing in it reads them: the
    cont of recurrent layers.
    """

    inputs: dict[str, tuple]
    outputs: dict[str, tuple]
    transforms: dict[str, str]
    unread: list[str]
    bytes: int


def export_onnx(source: Net | NetConfig | str | os.PathLike, path: str | os.PathLike, weights: Any = None,
                opset: int = OPSET, batch: str | None = "N",
                shapes: Mapping[str, Sequence[int]] | Sequence[int] = (), outputs: str | Sequence[str] = (),
                level: int = 0, stages: Sequence[str] = (), skip_mismatched: bool = False,
                ema: bool = False) -> Exported:
    """Write what a net computes in use to an ONNX file, and return an Exported.

    source: a Net, with its weights, or a description (NetConfig, NetSpec, the path of a network file) with
    `weights`, files as for `Net.load_weights`, and so are skip_mismatched and ema. What is written is its
    Deployment: phase TEST, inputs in place of data layers, no layer that reads labels, a Softmax for a
    SoftmaxWithLoss. The data layer's transform_param is not part of it, but its metadata. outputs: the names
    of other blobs instead.

    batch: the name of the size of a batch, which may then be any; None: the sizes stay as described. opset:
    of ONNX's operators, 18 or later. shapes: that of a record, or {input: shape, with its batch}, for inputs
    whose data is not there to tell. level, stages: for include and exclude rules of a description. Numbers
    are float32, also indices; a recurrent layer that runs forwards begins its sequences at step 0 of each
    call, and its cont is no input (see docs/export.md).

    Raises ConfigError that lists all layers without an equivalent, or for a net without outputs or inputs of
    known shapes; SnapshotError where weights do not fit; BackendError without the package onnx; OSError.
    """
    _check(opset)
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    load = weights and partial(load_all_weights, weights=weights, skip_mismatched=skip_mismatched, ema=ema)
    deployed, known, net = _deployed(source, weights, names, level, stages)
    found = _shapes_of(deployed, known, shapes)
    config = deployed.with_shapes(found)
    graph, problems = graph_of(config)
    problems.raise_any()
    axes, grown = find_axes(graph, found, deployed.with_shapes) if batch else ({}, graph)
    lengths = {ref: _lengths(shape, grown.shapes[ref]) for ref, shape in graph.shapes.items()}
    ends = [_last(graph, name) for name in deployed.outputs]
    writer = _written(config, graph, lengths, _values(config, graph, net, load), ends)
    smallest = min((found[name][axis] for name, axis in axes.items()), default=1)
    model, (read, given) = _model(config, graph, writer, ends, lengths, opset, _namer(batch or "", smallest))
    called = {ref.name: writer.names[ref] for ref in _fed(graph)}
    settings = {called[name]: one.layer.transform_param for name, one in deployed.inputs.items()
                if one.transformed}
    for name, one in settings.items():
        model.metadata_props.add(key=f"transform_param of {name}", value=_on_a_line(one))
    transforms = {name: _on_a_line(one, 40) for name, one in settings.items()}
    content = model.SerializeToString()
    replace(path, content)
    unread = [name for name in found if called[name] not in read]
    return Exported(read, given, transforms, unread, len(content))


def _on_a_line(settings, most=0):
    """Return a transform_param as text; of a mean within it at most so many characters."""
    shown = type(settings)()
    shown.CopyFrom(settings)
    if most and len(shown.mean_data) > most:
        shown.mean_data = shown.mean_data[:most] + "..."
    return text_format.MessageToString(shown, as_one_line=True).strip()


def _check(opset):
    """Raise BackendError without the package onnx, ConfigError for an opset that it or this module lacks."""
    try:
        from onnx import defs
    except ImportError:
        raise BackendError('exporting needs the package onnx; install it with python -m pip install '
                           '"minidrop[onnx]", or python -m pip install onnx') from None
    newest = defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ConfigError(f"opset: expected {OLDEST_OPSET} to {newest}, the newest of the installed onnx, "
                          f"got {opset}")


# -- the net -------------------------------------------------------------------------------------------------
def _deployed(source, weights, outputs, level, stages) -> tuple[Deployment, dict[str, tuple[int, ...]], Any]:
    """Return (Deployment, {input: shape} as far as known, the Net or None) of what is exported."""
    if isinstance(source, Net):
        own = source.config
        config = described(own, zip(own.message.layer, own.origins, strict=True))
        deployed = deployment(config, outputs, source.level, source.stages, texts=True)
        shapes = {ref.name: shape for ref, shape in source.graph.shapes.items()
                  if ref.version == 0 and ref.name in deployed.inputs}
        return deployed, shapes, source
    if not isinstance(source, NetConfig | NetParameter | NetSpec | str | os.PathLike):
        given_net(source)       # raises
    if not weights:
        raise ConfigError("export needs the weights of the net: give weights (--weights), or a Net that has "
                          "them")
    return deployment(as_net_config(source), outputs, level, stages, texts=True), {}, None


def _shapes_of(deployed, known, given):
    """Return {input: shape}: as given, as the net has it, or as its data layer says."""
    if not isinstance(given, Mapping):
        if len(given) and len(deployed.inputs) != 1:
            raise ConfigError(f"shapes: the net in use has the inputs {', '.join(deployed.inputs)}; give the "
                              f"whole shape of each, {{input: shape}} (--shape INPUT=...)")
        given = {name: (deployed.batch_size, *given) for name in deployed.inputs} if len(given) else {}
    given = {name: tuple(map(int, shape)) for name, shape in given.items()}
    for name in given:
        if name not in deployed.inputs:
            raise ConfigError(f"shapes: the net in use has no input {name!r}{nearest(name, deployed.inputs)} "
                              f"(inputs: {', '.join(deployed.inputs)})")
    found = {}
    for name, source in deployed.inputs.items():
        found[name] = given.get(name) or known.get(name) or _read_shape(deployed.config, name, source.layer)
    return found


def _read_shape(config, name, layer):
    """Return the shape of a top of a layer that feeds a net."""
    own = described(config, [(layer, config.origins[0] if config.origins else None)])
    graph, problems = graph_of(own)
    try:
        problems.raise_any()
        return tuple(graph.shapes[BlobRef(name, 0)])
    except ConfigError as error:
        raise ConfigError.saying([
            *error.lines, f"The shape of {name!r} is unknown without it: give that of a record, "
            f"shapes=(1, 28, 28) (--shape 1,28,28), or the whole one, shapes={{{name!r}: ...}} (--shape "
            f"{name}=50,64)"]) from None
    finally:
        for node in graph.nodes:
            if hasattr(node, "layer"):
                node.layer.close()


def _values(config, graph, net, load):
    """Return {"layer.parameter": array}, each parameter under its first owner."""
    made = None
    if net is None or load:
        made = net = Net(config, "TEST", "cpu")
    try:
        if load:
            load(net)
        found = {}
        for parameter in graph.parameters:
            node, name = parameter.users[0]
            data, key = net.backend.to_host(net.params[node.name][name].data), f"{node.name}.{name}"
            if not is_finite(data, "float32"):
                raise SnapshotError(f"{config.where(node.index)}: {key} has a NaN, an infinity or a "
                                    f"number too large for float32; use weights of before")
            found[key] = np.array(data, np.float32)     # a copy: the net may go on
        return found
    finally:
        if made is not None:
            made.close()


def _fed(graph):
    """Return the blobs of the inputs, as they are fed."""
    return [ref for ref, node in graph.writer.items() if node.config.type == "Input"]


def _last(graph, name):
    """Return the last version of a blob."""
    return max(ref for ref in graph.writer if ref.name == name)


def _lengths(shape, grown) -> Shape:
    return tuple(a if a == b else (a, b) for a, b in zip(shape, grown, strict=True))


# -- the graph -----------------------------------------------------------------------------------------------
def _written(config: NetConfig, graph: Graph, lengths: dict[BlobRef, Shape],
             values: dict[str, np.ndarray], ends: Sequence[BlobRef]) -> GraphWriter:
    """Return the GraphWriter with the nodes of all layers; one ConfigError lists those that have none.

    Of the versions of a blob that layers change in place, that of `ends` has the blob's name, else what is
    fed, else the last one.
    """
    writer, problems = GraphWriter(values), Problems(config)
    owners = {(node.name, name): f"{parameter.users[0][0].name}.{parameter.users[0][1]}"
              for parameter in graph.parameters for node, name in parameter.users}
    plain = {ref.name: ref for refs in (sorted(graph.writer), _fed(graph), ends) for ref in refs}
    writer.names = names = {ref: writer.new_name(
        ref.name if ref == plain[ref.name] else f"{ref.name}/{ref.version}") for ref in graph.writer}
    for node in graph.nodes:
        if node.config.type == "Input":
            writer.values |= {ref: names[ref] for ref in node.tops}
            continue
        write = writer_of(node.config.type)
        try:
            if write is None:
                raise NotExportable(reason_of(node.config.type))
            own = {name: owners[node.name, name] for name in node.layer.params or
                   [spec.name for spec in node.layer.parameter_specs()]}
            to = LayerWriter(writer, node.name, own, [lengths[ref] for ref in node.bottoms],
                             [lengths[ref] for ref in node.tops])
            results = write(to, node.layer, *(writer.values[ref] for ref in node.bottoms))
            to.finish(results, node.tops, [names[ref] for ref in node.tops])
        except NotExportable as error:
            problems.add(node.index, str(error))
            writer.values |= {ref: names[ref] for ref in node.tops}     # so that the others are looked at
    problems.raise_any()
    return writer


def _model(config, graph, writer, ends, lengths, opset, name_of):
    """Return (the checked ModelProto, ({input: shape}, {output: shape}))."""
    from onnx import checker, helper, numpy_helper

    fed = {writer.values[ref]: ref for ref in _fed(graph)}
    ends = {_output(writer, ref, fed): ref for ref in ends}
    nodes, read = writer.needed(ends)
    shapes = [{name: tuple(map(name_of, lengths[ref])) for name, ref in refs.items()}
              for refs in ({name: ref for name, ref in fed.items() if name in read}, ends)]
    size = sum(array.nbytes for name, array in writer.constants.items() if name in read)
    if size > MOST_BYTES:
        raise ConfigError(f"{config.where()}: the weights are {size / 1e9:.1f} GB, and an ONNX file holds at "
                          f"most {MOST_BYTES / 1e9:.1f}")
    inputs, outputs = ([helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in one.items()]
                       for one in shapes)
    constants = [numpy_helper.from_array(array, name) for name, array in writer.constants.items()
                 if name in read]
    made = helper.make_graph(nodes, config.message.name or "net", inputs, outputs, constants)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=imports, producer_name="minidrop",
                              ir_version=helper.find_min_ir_version_for(imports))
    checker.check_model(model, full_check=True)
    return model, shapes


def _output(writer, ref, fed):
    """Return the name under which a blob leaves the graph: its own, unless an input has that."""
    value, name = writer.values[ref], writer.names[ref]
    if value == name and value not in fed:
        return name
    name = writer.new_name(f"{name}/output") if value == name else name
    writer.add("Identity", [value], [name], name)
    return name


def _namer(batch: str, smallest: int) -> Callable[[Any], int | str | None]:
    """Return a function that gives lengths that grow their names: the batch's, or a multiple of it; None for
    others. smallest: the length that the batch's name stands for."""
    def name_of(length):
        if isinstance(length, int):
            return length
        times, rest = divmod(length[0], smallest)
        if rest or length[1] != 2 * length[0]:
            return None
        return batch if times == 1 else f"{times}*{batch}"
    return name_of
