"""What displays and tests show, written for TensorBoard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minidrop.errors import ConfigError

FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raise ConfigError if nothing can be written for TensorBoard."""
    if find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard writes with tensorboardX, which is not installed; install it with: "
                          "pip install 'minidrop[tensorboard]'")


class Board:
    """Writes the values of displays and tests of a Solver as scalars into FOLDER of a run folder.

    A value is called train/NAME or test/NAME, of further test nets test 1/NAME, and so on; of a list, each
    value NAME[i]. Values that an earlier process wrote from `iteration` on are void: TensorBoard leaves them
    out. A context manager, which writes the rest at its end.
    """

    def __init__(self, folder: Path, iteration: int):
        from tensorboardX import SummaryWriter
        path = folder / FOLDER
        try:
            # The suffix tells files apart that are begun within one second.
            self.writer: Any = SummaryWriter(str(path), purge_step=iteration or None,
                                             filename_suffix=f".{iteration}")
        except OSError as error:
            raise ConfigError(f"--tensorboard: {path}: cannot be written: {error.strerror or error}; choose "
                              f"another --out") from error

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def __call__(self, event: Any) -> None:
        if event.kind not in ("display", "test"):
            return
        phase = "train" if event.kind == "display" else f"test {event.net}" if event.net else "test"
        for name, value in event.values.items():
            for i, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
                tag = f"{phase}/{name}" + ("" if i is None else f"[{i}]")
                self.writer.add_scalar(tag, float(one), event.iteration)
