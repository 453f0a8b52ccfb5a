"""Layerwise: passes of a net that begin and end at any layer, with the gradient of every blob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minidrop.autograd import Tensor, backward
from minidrop.errors import ConfigError, DataError, MinidropError, ShapeError, fits_into_memory, nearest
from minidrop.net.graph import BlobRef, Node
from minidrop.net.layerwise_parts import BlobGradients, Call, HeldArrays, changed_by, trained_blobs
from minidrop.net.reshaping import front_of, rebuild

if TYPE_CHECKING:
    from minidrop.net.net import Net


class Layerwise:
    """Runs the layers of `net` one by one, as Caffe does: what a layer reads is what its blobs hold now.

    So blobs exist before the first pass, as zeros, and may be changed between two layers: `value(name).data`
    is the array that the next layer reads. Every blob is whole, also where a drop would let a pass of the net
    leave out a part of it.

    A pass of the net itself, e.g. one of a Solver, leaves its blobs here too; their gradients it leaves only
    where `give_gradients` brings them. An array from `array` is kept up to date as long as somebody holds it.
    Input layers give the blobs that they hold here to the net's own passes as well.

    After a reshape of inputs a pass to a layer needs only the layers up to it to fit them, as in Caffe: where
    the rest does not, a front of the net runs, in which only these layers are.
    """

    def __init__(self, net: Net):
        self.net, self._held = net, HeldArrays()
        self._front: Net | None = None
        self._read_graph()

    @property
    def _acting(self) -> Net:
        """The net that runs."""
        return self.net if self._front is None else self._front

    def _read_graph(self, front: Net | None = None):
        """Begin anew with the net, or a front of it."""
        if self._front is not None:
            self._front.close()
        self._front, self._whole_graph = front, self.net.graph
        net = self._acting
        self._graph = net.graph
        self._all_nodes = [*self._graph.nodes, *self.net.graph.nodes[len(self._graph.nodes):]]
        self._nodes = {node.name: i for i, node in enumerate(self._all_nodes)}
        self._weights = {ref.name: weight for ref, weight in self.net.losses}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._versions: dict[str, int] = {}
        for ref, shape in (*self.net.graph.shapes.items(), *self._graph.shapes.items()):
            self._shapes[ref.name] = shape
            self._versions[ref.name] = max(self._versions.get(ref.name, 0), ref.version + 1)
        self._trained = trained_blobs(net)
        self._inputs = {name: node.layer for node in self._all_nodes if node.config.type == "Input"
                        for name in node.layer.shapes}
        if front is None:
            self._new_inputs: dict[str, Tensor] = {}    # whose shape is no more what the net was built for
        self._is_fitted = True          # what runs was built for the shapes of the inputs
        self._begin(net.run)
        for name, layer in self._inputs.items():
            if name not in layer.set:
                self.net.set_inputs(**{name: self._zeros(self._shapes[name])})
            self._set(BlobRef(name, 0), self._new_inputs.get(name, layer.set[name]))

    # -- blobs -----------------------------------------------------------------------------------------------
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a blob; needs no memory."""
        self._adopt()
        ref = self._current.get(name)
        return self._shape(name) if ref is None else self._run.tensors[ref].shape

    def _shape(self, name):
        if name not in self._shapes:
            raise ConfigError(f"the net has no blob {name!r}{nearest(name, self._shapes)}")
        return self._shapes[name]

    def value(self, name: str) -> Tensor:
        """Return what a blob holds now, a whole Tensor; zeros if no layer has written it yet."""
        self._adopt()
        ref = self._current.get(name)
        if ref is None:
            ref = BlobRef(name, 0)
            self._set(ref, self._zeros(self._shape(name), ref in self._trained))
        elif not self._is_own[ref]:
            self._set(ref, self._whole(ref, self._run.tensors[ref]))
        return self._run.tensors[ref]

    def array(self, name: str) -> Any:
        """Return the array of `value`, into which later passes write too while somebody holds it.

        (Not where the shape changes, nor where a layer that runs in place still needs what it read.)
        """
        return self._held.give(name, self.value(name).data)

    def give_gradients(self, found: BlobGradients) -> None:
        """Let blobs have the gradients of the last pass backward of the net itself."""
        self._adopt()
        self._given = found
        for name in self._held.names:
            self.value(name)

    def gradient(self, name: str) -> Any:
        """Return the array of the gradient of a blob: what `backward` left, or what it begins with.

        It may be written to. Before any pass backward, and after one of the net itself whose gradients
        `give_gradients` has not brought, it is the loss_weight of a loss, otherwise zeros.
        """
        shape, found = self.shape(name), self._gradients.get(name)
        if found is None or found.shape != shape:
            found = self._given.of(name) if self._given is not None and name not in self._weights else None
            if found is None or found.shape != shape:
                with self.net.backend.active():
                    found = self.net.backend.xp.full(shape, self._weights.get(name, 0), self.net.dtype)
            self._gradients[name] = found
        return found

    def reshape_input(self, name: str, shape: tuple[int, ...]) -> None:
        """Let an input hold zeros of another shape; `reshape`, or the next pass, fits the net to it.

        Raises ShapeError for a blob that a layer computes.
        """
        self._adopt()
        if name not in self._inputs:
            self._shape(name)
            writer = self.net.graph.writer[BlobRef(name, 0)].name
            raise ShapeError(f"blob {name!r} is written by layer {writer!r}, and its shape follows; only "
                             f"inputs can be reshaped ({', '.join(self._inputs) or 'this net has none'})")
        if tuple(shape) != self.shape(name):
            self._is_fitted, self._new_inputs[name] = False, self._zeros(tuple(shape))
            self._set(BlobRef(name, 0), self._new_inputs[name])

    def reshape(self) -> None:
        """Fit the net to the shapes of its inputs; its parameters stay, its recurrent states begin at 0.

        Raises ConfigError, and leaves the net as it is, where its layers or parameters do not fit them.
        """
        self._adopt()
        if self._new_inputs:
            rebuild(self.net, self._new_inputs)
            self._read_graph()

    def _fit(self, end):
        """Fit the net to the shapes of its inputs, or only a front of it where layers behind `end` do not."""
        self._adopt()
        count = len(self._between(None, end))
        if self._front is not None and self._is_fitted and count <= len(self._graph.nodes):
            return
        try:
            self.reshape()
        except ConfigError:
            if count == len(self._all_nodes):
                raise
            self._read_graph(front_of(self.net, self._new_inputs, count))

    def _zeros(self, shape, requires_grad=False):
        backend = self.net.backend
        with backend.active(), fits_into_memory(f"a blob of shape {shape}"):
            return Tensor(backend.zeros(shape, self.net.dtype), requires_grad, backend)

    def _whole(self, ref, tensor):
        """Return a tensor that a layer has written, whole and in an array of its own.

        Data may be a view of what their source holds; what an input holds stays where it is.
        """
        with tensor.backend.active():
            data = tensor.backend.expand(tensor.data, tensor.kept, tensor.kept_axis)
            if self._graph.writer[ref].layer.is_data and ref.name not in self._inputs:
                data = data.copy()
        return Tensor(data, tensor.requires_grad, tensor.backend)

    def _set(self, ref, tensor):
        """Let a blob hold a tensor; later versions of it, of which this one takes the place, are gone."""
        for version in range(ref.version, self._versions[ref.name]):
            self._run.tensors.pop(BlobRef(ref.name, version), None)
        if ref.version + 1 == self._versions[ref.name] and ref.name not in self._inputs:
            tensor = self._held.put(ref.name, tensor, self._calls.values())
        self._run.tensors[ref] = tensor
        self._current[ref.name], self._is_own[ref] = ref, True

    # -- passes ----------------------------------------------------------------------------------------------
    def _begin(self, run):
        """Go on from the tensors of a Run."""
        self._run, self._run_of_net = run, self.net.run
        self._calls: dict[int, Call] = {}      # by the index of the node
        self._gradients: dict[str, Any] = {}    # by the name of the blob
        self._given: BlobGradients | None = None
        self._current = {ref.name: ref for ref in sorted(run.tensors)}      # the version that a blob holds
        self._is_own = dict.fromkeys(run.tensors, False)

    def _adopt(self):
        """Go on from the last pass of the net, if it was not one of these."""
        if self.net.graph is not self._whole_graph:
            self._read_graph()
        elif self.net.run is not self._run_of_net:
            if self._front is not None:
                self._read_graph()
            self._begin(self.net.run)

    @contextmanager
    def _pass(self) -> Iterator[None]:
        """Within this context layers compute every unit, and multiply by masks."""
        net = self._acting
        mode = net.mode
        with net.at_work():
            net.mode = replace(mode, masked=True, fused=False)
            try:
                yield
            finally:
                net.mode = mode

    def _between(self, first, last):
        """Return the nodes from layer `first` to layer `last`, None: from the first, to the last."""
        for name in (first, last):
            if name is not None and name not in self._nodes:
                raise ConfigError(f"the net has no layer {name!r}{nearest(name, self._nodes)}")
        begin = 0 if first is None else self._nodes[first]
        end = len(self._nodes) if last is None else self._nodes[last] + 1
        return self._all_nodes[begin:end]

    def forward(self, start: str | None = None, end: str | None = None) -> None:
        """Run the layers from `start` to `end`, by default the first and the last, on what the blobs hold.

        Random drops are drawn anew, unless the net's `draw_patterns` was called. Raises ConfigError for an
        unknown layer, and the errors of the layers.
        """
        self._fit(end)
        nodes = self._between(start, end)
        with self._pass():
            self._run.spent = True      # for the net's own `backward`: the layers are not connected
            self._acting.draw_if_due()
            for index in changed_by(nodes, self._all_nodes):
                self._calls.pop(index, None)
            for node in nodes:
                self._forward(node)

    def _forward(self, node: Node) -> None:
        values = [self.value(ref.name) for ref in node.bottoms]
        bottoms = [Tensor(value.data, value.requires_grad, value.backend) for value in values]
        state = dict(node.layer.state)
        tops = self._run.layer(node, list(bottoms))
        if node.layer.is_data:
            tops = tuple(self._whole(ref, top) for ref, top in zip(node.tops, tops, strict=True))
        self._calls[node.index] = Call(bottoms, tops, node.layer.drawn, state)
        for ref, top in zip(node.tops, tops, strict=True):
            self._set(ref, top)

    def _again(self, node: Node, call: Call) -> None:
        """Run a layer forward again as before, for another pass backward; states and statistics stay."""
        layer = node.layer
        state = dict(layer.state)
        statistics = [(parameter, parameter.data.copy()) for parameter in layer.params.values()
                      if not parameter.requires_grad]
        layer.state.update(call.state)
        with self._pass():          # which gives the layer a draw, as its end does
            layer.drawn = call.drawn
            try:
                call.tops = self._run.layer(node, list(call.bottoms))
            finally:
                layer.state.update(state)
                for parameter, data in statistics:
                    parameter.data[...] = data

    def _call_on_blobs(self, node: Node) -> Call:
        """Return a run of a layer on what its bottoms hold now, which leaves its tops as they are.

        What a layer below has overwritten in place is what the layer above has given, if that has run.
        """
        bottoms = []
        for ref in node.bottoms:
            value, writer = self._run.tensors.get(ref), self._graph.writer[ref]
            if ref != self._current.get(ref.name, ref) and writer.index in self._calls:
                value = self._calls[writer.index].tops[writer.tops.index(ref)]
            elif value is None:
                value = self.value(ref.name)
            elif not self._is_own[ref]:
                value = self._whole(ref, value)
            bottoms.append(Tensor(value.data, ref in self._trained, value.backend))
        with self._pass():          # where the layer's draw is one that computes every unit
            call = Call(bottoms, (), node.layer.drawn, dict(node.layer.state))
        self._again(node, call)
        for ref, top in zip(node.tops, call.tops, strict=True):
            if top.shape not in (self._graph.shapes[ref], self.shape(ref.name)):
                raise DataError(f"layer {node.name!r} has not run forward, and its blob {ref.name!r} has "
                                f"shape {self.shape(ref.name)}, not {top.shape}; call forward first")
        return call

    def backward(self, start: str | None = None, end: str | None = None) -> None:
        """Run the layers from `start` back to `end`, by default the last and the first.

        It begins with the `gradient` of each blob that no layer in between reads, adds to the gradients of
        parameters, and writes those of blobs. It may run again after the same forward pass. A layer that has
        not run forward here runs on what its blobs hold, which it does not change. Raises the errors of the
        layers.
        """
        self._fit(start)
        nodes = self._between(end, start)
        for node in nodes:
            if node.index not in self._calls and not node.layer.is_data:
                self._calls[node.index] = self._call_on_blobs(node)
        own: set[int] = {node.index for node in nodes}
        written: dict[BlobRef, Any] = {}
        with self.net.guard(), self.net.backend.active():
            for node in reversed(nodes):
                self._backward(node, own, written)

    def _backward(self, node, own, written):
        """Run one layer backward; `own`: the nodes of this pass, `written`: the gradients that it has."""
        if node.layer.is_data:
            return
        call = self._calls[node.index]
        wanted = [i for i, ref in enumerate(node.tops) if call.tops[i].requires_grad and (
            ref in written or not any(reader.index in own for reader, _ in self._graph.readers[ref]))]
        if not wanted:
            return
        if call.spent:
            self._again(node, call)
        call.spent = True
        seeds = [(call.tops[i], self._seed(node.tops[i], call.tops[i], written)) for i in wanted]
        try:
            backward(seeds)
        except (MinidropError, MemoryError) as error:
            self._run.raise_of(node, error)
        for ref, bottom in zip(node.bottoms, call.bottoms, strict=True):
            if bottom.grad is None:
                continue
            if ref in written:
                written[ref] += bottom.grad
            else:
                gradient = self.gradient(ref.name)
                # A layer in place may give its blob another shape, which the blob's gradient then has.
                written[ref] = gradient if gradient.shape == bottom.shape else bottom.grad.copy()
                written[ref][...] = bottom.grad
            bottom.clear_grad()

    def _seed(self, ref, top, written):
        """Return a copy of the gradient with which backward begins at a top, as layers may hand it on."""
        gradient = written.get(ref)
        gradient = self.gradient(ref.name) if gradient is None else gradient
        if gradient.shape != top.shape:
            raise DataError(f"blob {ref.name!r} has shape {gradient.shape} and not {top.shape} now, "
                            f"changed by a layer in place; begin backward below it, or name its top anew")
        return gradient.copy()
