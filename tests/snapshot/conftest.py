import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_iter_7.h5"
