"""Whether all ranks train the same: by the same description, from the same weights."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import numpy as np

from minidrop.autograd import Parameter
from minidrop.backend import Backend
from minidrop.errors import ParallelError
from minidrop.solver.communicator import Communicator
from minidrop.solver.mpi import launched_size
from minidrop.solver.ranks import Ranks

log = logging.getLogger(__name__)

_OF_A_RANK = "device_id:", "solver_mode:"        # lines of a solver's text


def warn_of_others(communicator: Communicator | None) -> None:
    """Warn, of a solver without a communicator, where a launcher has started other processes.

    They will not train together with this one, and all write the same snapshots.
    """
    size = launched_size()
    if communicator is None and size > 1:
        log.warning("Solver: a launcher has started %d processes, and each of them trains the whole model by "
                    "itself; if they are to train one together, pass communicator=world(), of "
                    "minidrop.solver.mpi (of the commands, minidrop train does)", size)


def check_description(ranks: Ranks, parts: Mapping[str, object], remedy: str) -> None:
    """Raise ParallelError, on all ranks, unless all have the same text of each part.

    With other settings the ranks would train each its own way, or wait for each other for ever. On which
    device a rank computes is its own affair. remedy: what to do, for the message.
    """
    if ranks.alone:
        return
    text = "\n".join(f"{name}: {line}" for name, part in parts.items() for line in str(part).splitlines()
                     if not line.startswith(_OF_A_RANK))
    digests = ranks.gather(np.frombuffer(_digest(text.encode(errors="surrogatepass")), np.uint8))
    if (digests == digests[0]).all():
        return
    texts = ranks.texts(text)
    rank = next(rank for rank, other in enumerate(texts) if other != texts[0])
    own, other = texts[0].splitlines(), texts[rank].splitlines()
    more, less = ([line for line in one if line not in two] for one, two in ((other, own), (own, other)))
    raise ParallelError(f"rank {rank} was started otherwise than rank 0: "
                        f"{'; '.join([*_shown('it has', more), *_shown('rank 0 has', less)]) or 'the order'}"
                        f"; {remedy}")


def _shown(who, lines):
    return [f"{who} {' '.join(lines[0].split())}"] if lines else []


def _digest(content):
    return hashlib.blake2b(content, digest_size=16).digest()


def check_alike(ranks: Ranks, parameters: Mapping[str, Parameter], backend: Backend) -> None:
    """Raise ParallelError unless all ranks have the same weights, bit for bit."""
    if ranks.alone:
        return
    hashes = [np.frombuffer(_digest(np.ascontiguousarray(backend.to_host(parameter.data)).data), np.uint8)
              for parameter in parameters.values()]
    every = ranks.gather(np.array(hashes, np.uint8).reshape(-1, 16))
    differ = (every != every[0]).any(axis=2)
    if differ.any():
        rank, place = (int(one[0]) for one in np.nonzero(differ))
        raise ParallelError(f"rank {rank} has other weights than rank 0, of {list(parameters)[place]}: all "
                            f"ranks must begin with the same seed, weights and snapshot, and run on "
                            f"processors and libraries of one kind")
