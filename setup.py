"""What setup.cfg cannot say: models/ is minidrop/models once installed, and the README stands alone there."""

import re
from pathlib import Path

from setuptools import find_packages, setup

RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)[^)]*\)")


def description():
    """Return the README for a package index, where files beside it are none: their links are plain text."""
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    return RELATIVE.sub(lambda link: "" if link[1] else link[2], text)


setup(packages=[*find_packages(include=["minidrop", "minidrop.*"]), "minidrop.models"],
      package_dir={"minidrop.models": "models"},
      package_data={"minidrop": ["py.typed", "autograd/*.pyi", "apps/report.css", "config/minidrop.proto",
                                 "kernels/*.cu", "kernels/*.cuh", "kernels/README.md"],
                    "minidrop.models": ["*/*.prototxt", "*/README.md"]},
      long_description=description(), long_description_content_type="text/markdown")
