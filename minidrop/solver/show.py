"""How a solver is shown: its rule, where it is, and what it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.net.show import headline

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


def described(solver: Solver) -> str:
    """Return a solver as one line of text. Never raises, also for one half built; waits for no device."""
    try:
        settings, tests = solver.settings, len(solver.test_nets)
        return (f"{type(solver).__name__}({settings.type or 'SGD'}, iteration {solver.iteration} of "
                f"{settings.max_iter}, lr {solver.learning_rate:g}, {tests} test net{'s' * (tests != 1)}, "
                f"trains {headline(solver.net)})")
    except Exception:
        return f"{type(solver).__name__}(not built)"
