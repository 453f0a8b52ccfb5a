"""The models that come with minidrop: network and solver files to train, or to begin from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from minidrop.data.sources import DATA_SETS
from minidrop.errors import ConfigError, nearest
from minidrop.files import check_output, replace

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SOURCE = re.compile(r'^[^#\n]*\bsource: "([^"/]+)/', re.MULTILINE)


@dataclass(frozen=True)
class Model:
    """One of the models: its name, what it is in a sentence, its files, and the data sets that they name."""

    name: str
    title: str
    files: tuple[Path, ...]
    data_sets: tuple[str, ...]

    @property
    def solvers(self) -> list[str]:
        """The names of its solver files."""
        return [file.name for file in self.files if file.name.startswith("solver")]


def models_folder() -> Path:
    """Return the folder of the models: minidrop/models where minidrop is installed, models/ of a checkout.

    Raises ConfigError where there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parent / "models"):
        if (folder / "digits_mlp" / "solver.prototxt").is_file():
            return folder
    raise ConfigError(f"{package}: this installation lacks the models; install minidrop again")


def known_models() -> list[Model]:
    """Return the models, sorted by name."""
    return [_model(folder) for folder in sorted(models_folder().iterdir())
            if (folder / "solver.prototxt").is_file()]


def find_model(name: str) -> Model:
    """Return a model by its name; raises ConfigError with the nearest names."""
    models = {model.name: model for model in known_models()}
    if name not in models:
        raise ConfigError(f"there is no model {name!r}{nearest(name, models)} (`minidrop init` lists them)")
    return models[name]


def copy_model(model: Model, folder: str | os.PathLike, force: bool = False) -> list[Path]:
    """Copy the files of a model to a folder, which is made; returns their new paths.

    Raises ConfigError, and copies nothing, where one of them is there, unless `force` replaces it; also where
    the folder cannot be written.
    """
    folder = Path(folder)
    paths = [folder / file.name for file in model.files]
    there = [path for path in paths if os.path.lexists(path)]
    if there and not force:
        raise ConfigError(f"{there[0]}: is there already, and nothing was copied; name another folder, or "
                          f"replace the files with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            check_output(path)
        for path, file in zip(paths, model.files, strict=True):
            replace(path, file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written: {error.strerror or error}; name "
                          f"another folder") from None
    return paths


def _model(folder):
    files = tuple(sorted(file for file in folder.iterdir() if file.suffix in (".prototxt", ".md")))
    named = [name for file in files if file.suffix == ".prototxt"
             for name in _SOURCE.findall(file.read_text(encoding="utf-8"))]
    text = (folder / "README.md").read_text(encoding="utf-8").split("\n", 1)[-1]
    return Model(folder.name, _first_sentence(text), files,
                 tuple(name for name in dict.fromkeys(named) if name in DATA_SETS))


def _first_sentence(text):
    """Return the first sentence of a text in Markdown, without links and emphasis."""
    paragraph = " ".join(text.strip().split("\n\n", 1)[0].split())
    plain = _LINK.sub(r"\1", paragraph).replace("*", "").replace("`", "")
    return re.split(r"(?<=[^A-Z]\w)[.:;] |(?<=\))[.:] ", plain, maxsplit=1)[0].rstrip(".")
