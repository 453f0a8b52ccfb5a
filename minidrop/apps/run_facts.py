"""run.json: the facts of a run, and which run a solver continues."""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minidrop.files import check_output
from minidrop.snapshot import is_run_name
from minidrop.snapshot.seal import Seal

log = logging.getLogger(__name__)

ROOT = Path("runs")
_MOST_BYTES = 1 << 20


def newest_run(solver: Any) -> Path | None:
    """Return the folder under ROOT of the newest run of a Solver, or None; warns of broken ones."""
    wanted = identity(solver)
    found = [(facts.get("number", 0), facts.get("started", 0), path) for path, facts in _runs(log.warning)
             if all(facts.get(key) == value for key, value in wanted.items())]
    return max(found)[-1] if found else None


def next_number() -> int:
    """Return a number above those of all runs so far, independent of the clock."""
    return 1 + max((facts.get("number", 0) for _, facts in _runs()), default=0)


def _runs(warn=log.debug):
    return [(path.parent, read_facts(path, warn)) for path in ROOT.glob("*/run.json")]


def identity(solver: Any) -> dict[str, str | None]:
    """Return the settings by which a run is found again; others may change when it is resumed."""
    return {"solver": os.path.realpath(solver.config.path), "dropout": solver.dropout, "dtype": solver.dtype}


def read_facts(path: Path, warn: Callable = log.debug) -> dict[str, Any]:
    """Return the content of a run.json; {} if it is missing, or broken, which warn(message, ...) reports."""
    try:
        check_output(path)          # reading a pipe would block
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"is larger than {_MOST_BYTES} bytes")
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not _is_sound(facts):
            raise ValueError("holds other things than a run's")
        return facts
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        warn("%s: cannot be read (%s): passed over", path, getattr(error, "strerror", None) or error)
        return {}


def _is_sound(facts):
    return (isinstance(facts, dict) and is_run_name(facts.get("run", "0" * 16))
            and type(facts.get("number", 0)) is int and abs(facts.get("number", 0)) < 2**53
            and type(facts.get("started", 0)) in (int, float) and abs(facts.get("started", 0)) < 2**53)


def resolved_seed(folder: Path) -> int | None:
    """Return the seed in the solver file that a run wrote to its folder, or None."""
    try:
        text = (folder / "solver.prototxt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"^random_seed: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def is_own(folder: Path, facts: Mapping, seal: Seal, header: Mapping) -> bool:
    """Whether a snapshot is of the run in a folder; old formats name no run, but have its seed."""
    return seal.run == facts.get("run") if seal.run else header.get("seed") == resolved_seed(folder)
