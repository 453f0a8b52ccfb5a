"""Fixtures: dtypes, backends, small nets, and where real data is."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def backend(request):
    """A backend; the GPU one is skipped, saying why, where it cannot be used."""
    from minidrop.backend import cuda_devices, get_backend
    if request.param != "cpu":
        count, reason = cuda_devices()
        if not count:
            pytest.skip(reason)
    return get_backend(request.param)


@pytest.fixture
def data_folder():
    """The folder of real data sets named by MINIDROP_DATA."""
    folder = os.environ.get("MINIDROP_DATA")
    if not folder:
        pytest.skip("MINIDROP_DATA is not set: no real data here")
    return Path(folder)
