"""What setup.cfg cannot say: models/ stands beside the package, and is minidrop/models once installed."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["minidrop", "minidrop.*"]), "minidrop.models"],
      package_dir={"minidrop.models": "models"},
      package_data={"minidrop": ["py.typed", "config/minidrop.proto", "kernels/*.cu", "kernels/*.cuh",
                                 "kernels/README.md"],
                    "minidrop.models": ["*/*.prototxt", "*/README.md"]})
