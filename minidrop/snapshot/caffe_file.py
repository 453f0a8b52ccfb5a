"""What kind of file holds weights or the state of a solver, and Caffe's binary ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from minidrop.config.load import is_text
from minidrop.data.binaryproto import Blob, parse_blob
from minidrop.data.file_view import FileView, Piece, kept_view
from minidrop.data.limits import how_to_raise, raised
from minidrop.data.wire import BYTES, FOUR, VARINT, Wire
from minidrop.errors import DataError, SnapshotError
from minidrop.snapshot.seal import open_regular

MOST_BYTES = (1 << 31) - 1      # protobuf's limit for a message
IN_MEMORY = 64 << 20            # the arrays of a larger file are read one by one
WEIGHTS, STATE = "file of weights or snapshot", "solver state or snapshot"
SAFETENSORS = ".safetensors"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Fields of a NetParameter, and of a SolverState with the same numbers.
_NAME, _LAYERS, _LAYER = 1, 2, 100
_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4
_BLOB_DATA = 5
# (name, blobs) of a layer of today, of a V1 layer, and of the V0 layer inside one, its field _V0.
_TODAY, _V1, _OLDEST, _V0 = (1, 7), (4, 6), (1, 50), 1


@dataclass
class CaffeWeights:
    """The arrays of a file of weights: {layer: {number: Blob}}.

    Those of a binary file are looked at where a layer is asked for, which raises SnapshotError if one of its
    arrays cannot be read. whole: whether every layer has all its arrays; in HDF5 a shared one stands in its
    first layer alone.
    """

    layers: Mapping[str, dict[int, Blob]] = field(default_factory=dict)
    whole: bool = True

    def shapes(self, layer: str) -> list[tuple[int, ...] | str]:
        """Return the shapes of a layer's arrays, or one text if they cannot be read."""
        try:
            return [blob.shape for blob in self.layers[layer].values()]
        except SnapshotError:
            return ["of an unknown form"]


@dataclass
class SolverState:
    """What Caffe keeps of a solver: iterations done, the file of weights, and the arrays of the update rule.

    history: one array for each parameter, then again for rules that keep two. current_step: of the policies
    "step" and "multistep".
    """

    iteration: int
    learned_net: str
    history: list[Blob]
    current_step: int = 0


def file_kind(path: str | os.PathLike, what: str = WEIGHTS) -> str:
    """Return "snapshot" (minidrop's), "hdf5" or "other" by how a file begins, "safetensors" by its name.

    what: what messages call the file that is expected. Raises SnapshotError.
    """
    with explained(path), open_regular(path, what) as file:
        start = file.read(32)
    if start.startswith(b"minidrop snapshot "):
        return "snapshot"
    if start.startswith(HDF5_SIGNATURE):
        return "hdf5"
    return "safetensors" if os.fspath(path).endswith(SAFETENSORS) else "other"


@contextmanager
def explained(path: str | os.PathLike, what: str = "no .caffemodel of Caffe's") -> Iterator[None]:
    """Within this context all that a file can make a reader raise becomes a SnapshotError."""
    try:
        yield
    except SnapshotError:
        raise
    except DataError as error:
        raise SnapshotError(str(error)) from None
    except ValueError as error:
        raise refused(path, what, str(error)) from None
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise SnapshotError(f"{path}: not enough memory to read it") from error


def refused(path: str | os.PathLike, what: str, reason: str) -> SnapshotError:
    """Return the error of a file that is neither a snapshot nor what it should be."""
    return SnapshotError(f"{path}: this is no minidrop snapshot and {what}: it {reason}")


def read_binary_weights(path: str | os.PathLike) -> CaffeWeights:
    """Return the CaffeWeights of a .caffemodel: layers of today, V1 or V0, also without blobs.

    The arrays are views of the file's content; those of a file above 64 MiB are read when they are used. Of
    layers of one name the last counts, as in Caffe. Raises SnapshotError.
    """
    with explained(path):
        wire, found = Wire(), {}
        message = _Message(path, wire, WEIGHTS)
        if message.is_state:
            raise state_given_as_weights(path)
        for number, raw in message.layers:
            name, blobs = _layer(raw, wire, *(_TODAY if number == _LAYER else _V1), number == _LAYERS)
            found[name] = blobs
        if not found:
            raise ValueError("holds no layers")
        return CaffeWeights(_Layers(path, wire, found))


def read_binary_state(path: str | os.PathLike) -> SolverState:
    """Return the SolverState of a .solverstate, its arrays as for weights. Raises SnapshotError."""
    with explained(path, "no .solverstate of Caffe's"):
        wire = Wire()
        message = _Message(path, wire, STATE)
        if not message.is_state:
            if message.layers:
                raise weights_given_as_state(path)
            raise ValueError("holds no number of iterations")
        history = [_blob(raw, wire, path, f"array {i} of the history")
                   for i, raw in enumerate(message.history)]
        return SolverState(checked_iteration(message.iteration), message.learned_net, history,
                           message.current_step)


def state_given_as_weights(path: str | os.PathLike) -> SnapshotError:
    """Return the error of the state of a solver where weights are expected."""
    return SnapshotError(f"{path}: is a solver state, not weights; give it with --resume (Caffe's "
                         f"-snapshot), not --weights")


def weights_given_as_state(path: str | os.PathLike) -> SnapshotError:
    """Return the error of a file of weights where the state of a solver is expected."""
    return SnapshotError(f"{path}: holds weights but no solver state; give it with --weights, not --resume "
                         f"(Caffe's -snapshot)")


def checked_iteration(number: int) -> int:
    """Return a number of iterations; ValueError if there can be none like it."""
    if not 0 <= number < 2**31:
        raise ValueError(f"says that {number} iterations were done; expected 0 to {2**31 - 1}")
    return number


class _Layers(Mapping):
    """{layer: {number: Blob}} of a binary file, from {layer: serialized blobs}, each layer when asked for.

    A layer that nobody asks for may hold what only another program reads.
    """

    def __init__(self, path, wire, raw):
        self._path, self._wire, self._raw = path, wire, raw

    def __getitem__(self, layer):
        return {i: _blob(raw, self._wire, self._path, f"array {i} of layer {layer!r}")
                for i, raw in enumerate(self._raw[layer])}

    def __iter__(self):
        return iter(self._raw)

    def __len__(self):
        return len(self._raw)


def _blob(raw, wire, path, name):
    """Return the Blob of a serialized one; raises SnapshotError, which calls it `name`, also when read."""
    with _named(path, name):
        blob = parse_blob(raw, wire)

    def read():
        with _named(path, name):
            return blob.read()

    return replace(blob, read=read)


@contextmanager
def _named(path, name):
    """Within this context what an array makes its reader raise becomes a SnapshotError that names it."""
    with explained(path):
        try:
            yield
        except ValueError as error:
            raise SnapshotError(f"{path}: {name} {error}; if another program or a fork of Caffe wrote it, "
                                f"save it there as BVLC Caffe does") from None


class _Message:
    """The outermost fields of a binary file, be it a net or the state of a solver."""

    def __init__(self, path, wire, what):
        self.layers, self.history, self.iteration = [], [], None
        self.learned_net, self.current_step = "", 0
        named = array = False
        raw = _content(path, what)
        try:
            for number, kind, value in wire.fields(raw):
                if kind == BYTES and number in (_LAYER, _LAYERS):
                    self.layers.append((number, value))
                if kind == BYTES and number == _LEARNED_NET:
                    self.learned_net = bytes(value[:4096]).decode(errors="replace")
                if kind == BYTES and number == _HISTORY:
                    self.history.append(value)
                if kind == VARINT and number == _ITER:
                    self.iteration = value
                if kind == VARINT and number == _CURRENT_STEP:
                    self.current_step = value
                named = named or kind == BYTES and number in (_NAME, _LAYER)
                array = array or kind in (BYTES, FOUR) and number == _BLOB_DATA
        except ValueError as error:
            if is_text(bytes(raw[:256])):
                raise ValueError("is a text file; is it the network's description?") from None
            raise error
        if self.iteration is not None and array:
            raise ValueError("is one array (a .binaryproto)")
        # A net begins with its name, or its layers; the state of a solver with a number.
        self.is_state = self.iteration is not None and not named


def _content(path, what) -> Piece:
    """Return the content of a file: in memory, or of a large one a view, which keeps the file open."""
    with open_regular(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > raised(MOST_BYTES):
            raise SnapshotError(f"{path}: expected less than 2 GiB, as protocol buffers allow no more, got "
                                f"{size} bytes; save it as .caffemodel.h5, or, {how_to_raise()}")
        if not size:
            raise ValueError("is empty")
        return FileView(file, path, 0, size).read() if size <= IN_MEMORY else kept_view(file, path)


def _layer(raw, wire, name_field, blobs_field, may_be_oldest):
    """Return (name, serialized blobs) of a layer."""
    name, blobs, oldest = "", [], None
    for number, kind, value in wire.fields(raw):
        if kind == BYTES and number == name_field:
            name = bytes(value[:4096]).decode(errors="replace")
        elif kind == BYTES and number == blobs_field:
            blobs.append(value)
        elif kind == BYTES and may_be_oldest and number == _V0:
            oldest = value
    if oldest is not None:
        return _layer(oldest, wire, *_OLDEST, False)
    return name, blobs
