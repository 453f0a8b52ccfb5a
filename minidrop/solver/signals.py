"""StopSignals: signals that let a training run finish its iteration, write a snapshot and stop."""

import signal
import threading
from collections.abc import Callable
from typing import Any, ClassVar

EFFECTS = ("stop", "snapshot", "none")


class StopSignals:
    """Turns signals into requests that the training loop reads between two iterations.

        with StopSignals() as signals:
            while not signals.stop_requested:
                step()
                if signals.take_snapshot_request():
                    snapshot()

    SIGINT and SIGHUP have the effect "stop", "snapshot" or "none"; SIGTERM always requests a stop. A second
    SIGINT with effect "stop" goes to the previous handler, or to `at_once` if there was none, as in a process
    that a script starts in the background; Python's own raises KeyboardInterrupt at once. The previous
    handlers are restored on exit. Outside the main thread, where Python allows no handlers, nothing is caught
    or requested.

    asked: whether any StopSignals of this process has been asked to stop.
    stop_requested: the first signal that requested a stop ("SIGINT", "SIGTERM", "SIGHUP"), or None.
    snapshot_requested: True from a signal with that effect until take_snapshot_request.
    Raises ValueError for an unknown effect.
    """

    asked: ClassVar[bool] = False

    def __init__(self, sigint_effect: str = "stop", sighup_effect: str = "snapshot",
                 at_once: Callable = signal.default_int_handler):
        for effect in (sigint_effect, sighup_effect):
            if effect not in EFFECTS:
                raise ValueError(f"a signal's effect is one of {', '.join(EFFECTS)}; got {effect!r}")
        self._effects = {"SIGINT": sigint_effect, "SIGTERM": "stop", "SIGHUP": sighup_effect}
        self._old: dict[str, Any] = {}
        self._at_once = at_once
        self.stop_requested: str | None = None
        self.snapshot_requested = False

    def take_snapshot_request(self) -> bool:
        """Return whether a snapshot was requested since the last call."""
        requested, self.snapshot_requested = self.snapshot_requested, False
        return requested

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal that requested a stop (130 for SIGINT, 143 for SIGTERM), or 0."""
        return exit_code_of(self.stop_requested) if self.stop_requested else 0

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in self._effects:
                if hasattr(signal, name):  # Windows has no SIGHUP
                    self._old[name] = signal.signal(getattr(signal, name), self._handle)
        return self

    def __exit__(self, *_):
        for name, handler in self._old.items():
            # None: the old handler was not set from Python and cannot be restored.
            signal.signal(getattr(signal, name), signal.SIG_DFL if handler is None else handler)
        self._old.clear()

    def _handle(self, number, frame):
        name = signal.Signals(number).name
        effect = self._effects[name]
        if effect == "snapshot":
            self.snapshot_requested = True
        elif effect == "stop":
            StopSignals.asked = True
            if name == "SIGINT" and self.stop_requested:
                old = self._old.get(name)
                (old if callable(old) else self._at_once)(number, frame)
            self.stop_requested = self.stop_requested or name


def exit_code_of(name: str) -> int:
    """Return 128 + the number of a signal, such as 143 for "SIGTERM"."""
    return 128 + getattr(signal, name)
