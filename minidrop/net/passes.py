"""one_pass: a net's data layers read each of their records once; how large the next batch is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from minidrop.errors import DataError
from minidrop.layers import DataLayer

if TYPE_CHECKING:
    from minidrop.net.net import Net


@contextmanager
def one_pass(net: Net) -> Iterator[int]:
    """Within this context a net's data layers read each record once, from the first on; gives the number of
    batches.

    The last batch has the records that are left. Afterwards the layers go on where they were. Layers whose
    batches are all the same are left as they are. Raises DataError if a layer does not know how many records
    it has, if no layer has any, or if two have passes of different lengths.
    """
    readers = [node for node in net.graph.nodes if node.layer.is_data and node.config.type != "Input"]
    for node in readers:
        if not isinstance(node.layer, DataLayer):
            raise DataError(f"layer {node.name!r} ({node.config.type}) does not know how many records it "
                            f"has, so that each cannot be read once; give the number of batches instead")
    found = []
    with ExitStack() as stack:
        for node in readers:
            if not node.layer.is_constant:
                batches = stack.enter_context(node.layer.one_pass())
                count = batches.batches_per_pass
                found.append((node.name, count, batches.share(count - 1)))
        if not found:
            raise DataError("no layer of the net reads records, so that each cannot be read once; give the "
                            "number of batches instead")
        for name, *length in found[1:]:
            if length != list(found[0][1:]):
                raise DataError(f"each record cannot be read once: layer {found[0][0]!r} has "
                                f"{_length(*found[0][1:])}, layer {name!r} has {_length(*length)}; give the "
                                f"number of batches instead")
        yield found[0][1]


def next_share(net: Net) -> float:
    """Return the length of the next batch divided by that of a full one, of a net that reads parts; else 1.
    """
    layers = net.data_layers.values() if net.parts.blobs else ()
    return min((layer.length_of(layer.position) for layer in layers), default=1.0)


def _length(count, share):
    return f"{count} batches" + (f" of which the last has {share:.3g} of a batch" if share < 1 else "")
