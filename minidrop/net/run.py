"""Run: one forward pass of a net, its tensors and results."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from minidrop import functions
from minidrop.autograd import Tensor, Watch, backward
from minidrop.errors import ConfigError, DataError, KeptError, MinidropError, fits_into_memory, kind_of
from minidrop.layers import DataLayer

if TYPE_CHECKING:
    from minidrop.layers import Layer
    from minidrop.net.graph import BlobRef, Node
    from minidrop.net.net import Net

log = logging.getLogger(__name__)


class Run:
    """One pass through the nodes of a net.

    `tensors` is {BlobRef: Tensor}. `states`: the recurrent states at its start. `whole`: every node ran and
    no drop acted, so that what is above the drops serves every pattern. `spent`: backward has run, or cannot.
    """

    def __init__(self, net: Net, states: Any = None):
        self.net, self.states = net, net.states if states is None else states
        self.tensors: dict[BlobRef, Tensor] = {}
        self.whole, self.spent = False, False

    # -- forward ---------------------------------------------------------------------------------------------
    def through(self, nodes: list[Node], tensors: dict) -> dict[str, Tensor]:
        """Run `nodes` in order on the {BlobRef: Tensor} written so far, and return the net's outputs."""
        self.tensors = tensors
        for node in nodes:
            tops = self.layer(node, [tensors[ref] for ref in node.bottoms])
            tensors.update(zip(node.tops, tops, strict=True))
        return self.outputs

    def layer(self, node: Node, bottoms: list[Tensor]) -> tuple[Tensor, ...]:
        """Run the layer of one node on these bottoms, and return its tops; errors name the layer."""
        net = self.net
        for i in node.layer.plan.expand:
            bottoms[i] = functions.expand(bottoms[i])
        for i in net.detached.get(node.index, ()):
            tensor = bottoms[i]
            bottoms[i] = Tensor(tensor.data, False, tensor.backend, tensor.kept, tensor.kept_axis)
        try:
            tops = self._tops(node, bottoms)
        except (MinidropError, MemoryError) as error:
            self.raise_of(node, error)
        tops = tops if isinstance(tops, tuple) else (tops,)
        if len(tops) != len(node.tops) or not all(isinstance(top, Tensor) for top in tops):
            self.raise_of(node, ConfigError(
                f"forward should return a Tensor for each top, {len(node.tops)} in all (a tuple of them "
                f"where there are several), got {', '.join(kind_of(top) for top in tops) or 'none'}"))
        if node.layer.plan.whole:
            tops = tuple(functions.expand(top) for top in tops)
        if net.force_backward and node.layer.is_data:
            for top in tops:
                top.require_grad()
        return tops

    def again(self, before: Run) -> dict[str, Tensor]:
        """Run only the nodes that drops affect, on what the whole Run `before` computed above them."""
        net = self.net
        self.spent = True
        above = {ref: tensor for ref, tensor in before.tensors.items()
                 if net.graph.writer[ref].index not in net.drops.reached}
        # Each such pass begins with the same states; in the end they are what the whole pass left.
        after = net.states
        net.set_states(before.states)
        try:
            return self.through([node for node in net.graph.nodes if node.index in net.drops.reached], above)
        finally:
            net.set_states(after)
            self.states, self.whole = before.states, True

    def _tops(self, node, bottoms):
        """Return the tops of a layer, from dense bottoms if its functions need more than its flow says."""
        promised = self.net.broken_promises
        if node.index in promised:
            bottoms = [functions.expand(x) for x in bottoms]
        try:
            return node.layer.forward(*bottoms)
        except KeptError as error:
            if node.index in promised or all(x.kept is None for x in bottoms):
                raise
            log.warning("layer %r (%s): its flow says that it can work on the kept units alone, but %s; it "
                        "gets all of them, and skips nothing", node.name, node.config.type, error)
            promised.add(node.index)
            return self._tops(node, bottoms)

    def _record(self, node, error):
        """Return, in words, the record that a DataError about one place of a batch means; "" if unknown."""
        place = getattr(error, "place", None)
        if place is None:
            return ""
        for ref in reversed(node.bottoms):
            layer = self.net.graph.writer[ref].layer
            if record := self._record_at(layer, ref, place):
                return f": {record}"
        return ""

    def _record_at(self, layer, ref, place):
        """Return, in words, the record that a data layer read to one place of a top; "" if unknown."""
        if not isinstance(layer, DataLayer):
            return ""
        return layer.record_of(place // math.prod(self.tensors[ref].shape[layer.record_axes:])) or ""

    def raise_of(self, node: Node, error: Exception) -> NoReturn:
        """Raise an error again, as that of a layer."""
        place = f"layer {node.name!r} ({node.config.type})"
        if isinstance(error, MemoryError):
            with fits_into_memory(f"{place}: what it computes"):
                raise error
        raise type(error)(f"{place}: {error}{self._record(node, error)}") from error

    def _raise_of_function(self, function, error):
        """Raise the error of a function's backward as that of its layer, where it has one.

        Functions age in the order of their calls: its layer is the first whose tops are not older.
        """
        for node in self.net.graph.nodes:
            creators = [self.tensors[ref].creator for ref in node.tops if ref in self.tensors]
            if any(creator is not None and creator.age >= function.age for creator in creators):
                self.raise_of(node, error)

    # -- results ---------------------------------------------------------------------------------------------
    @property
    def blobs(self) -> dict[str, Tensor]:
        """{name: Tensor} of the last version of each blob."""
        return {ref.name: tensor for ref, tensor in self.tensors.items()}

    @property
    def outputs(self) -> dict[str, Tensor]:
        """{name: Tensor} of the blobs that no layer reads."""
        return {ref.name: self.tensors[ref] for ref in self.net.output_refs if ref in self.tensors}

    @property
    def loss(self) -> float:
        """The weighted sum of all losses, as a float (0 for a net without a loss)."""
        return sum(self.losses)

    @property
    def losses(self) -> list[float]:
        """Each loss times its loss_weight, as `Net.losses` lists them."""
        self._require("loss")
        backend = self.net.backend
        return [weight * float(backend.to_host(self.tensors[ref].data.sum()))
                for ref, weight in self.net.losses]

    @property
    def loss_counts(self) -> list[float]:
        """What the batch weighs in each loss, see `weight_of`; reading it may wait for the device."""
        return [float(self.weight_of(self.net.graph.writer[ref].layer)) for ref, _ in self.net.losses]

    def weight_of(self, layer: Layer, top: int = 0) -> Any:
        """Return what the batch weighs in the mean over batches of a layer's top: a number, or an array like
        the top.

        A batch of the size that the net was built for weighs 1, unless the layer says otherwise.
        """
        weight = layer.weight_of(top)
        return self.share if weight is None else weight

    @property
    def share(self) -> float:
        """The records of the batch, divided by those of a full one."""
        return min((layer.share for layer in self.net.data_layers.values()), default=1.0)

    def loss_array(self, scales: Sequence[float] | None = None) -> Any:
        """Return the sum of `losses` as a float64 array (1,) on the device, without waiting for it.

        scales: what each is multiplied by.
        """
        self._require("loss_array")
        losses = [weight * self.tensors[ref].data.sum().astype("float64") for ref, weight in self.net.losses]
        if scales is not None:
            losses = [loss * scale for loss, scale in zip(losses, scales, strict=True)]
        return sum(losses[1:], losses[0]).reshape(1)

    def backward(self, scale: float | Sequence[float] = 1.0, watch: Watch | None = None) -> None:
        """Add the gradient of `scale` times the loss to `grad` of every parameter, once per run.

        scale: a number, or one for each of `Net.losses`. `watch` is told how it goes on. Raises ConfigError
        for a net without a loss, DataError if backward has run already or nothing can be trained.
        """
        net = self.net
        if not net.losses:
            raise ConfigError(f"{net.config.where()}: backward needs a loss, but no layer is one and no "
                              f"loss_weight is set")
        self._require("backward")
        if self.spent:
            raise DataError("backward has run already; run forward again first")
        scales = [scale] * len(net.losses) if isinstance(scale, int | float) else scale
        roots = [(self.tensors[ref], weight * own)
                 for (ref, weight), own in zip(net.losses, scales, strict=True)
                 if self.tensors[ref].requires_grad]
        if not roots:
            raise DataError("backward finds nothing to do: forward ran under no_grad, every parameter is "
                            "frozen or has an lr_mult of 0, or no loss has a gradient (Accuracy, F1, "
                            "ArgMax and Threshold pass none on)")
        self.spent = True
        xp = net.backend.xp
        with net.backend.active():
            backward([(tensor, xp.full(tensor.data.shape, seed, tensor.dtype)) for tensor, seed in roots],
                     self._raise_of_function, watch)

    def _require(self, what):
        if any(ref not in self.tensors for ref, _ in self.net.losses):
            raise DataError(f"{what} needs a forward pass first")

    def first_nonfinite(self) -> tuple[str, str] | None:
        """Return (layer name, blob name) of the first top with a NaN or infinity, or None."""
        found = self._nonfinite()
        return found and (found[0].name, found[1].name)

    def nonfinite_record(self) -> str:
        """Return, in words, the data record with the first NaN or infinity; "" if the data have none."""
        found = self._nonfinite()
        if found is None or not found[0].layer.is_data:
            return ""
        node, ref = found
        place = int((~self.net.backend.xp.isfinite(self.tensors[ref].data)).reshape(-1).argmax())
        return self._record_at(node.layer, ref, place)

    def _nonfinite(self):
        xp = self.net.backend.xp
        return next(((node, ref) for node in self.net.graph.nodes for ref in node.tops
                     if ref in self.tensors and not bool(xp.isfinite(self.tensors[ref].entries).all())), None)
