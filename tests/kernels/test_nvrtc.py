"""Every variant of every kernel compiles for every GPU that is supported, without one."""

import re

import pytest

from minidrop.errors import BackendError
from minidrop.kernels import cuda, loader

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
VARIANTS = {"-".join(map(str, (kernel.file, *macros.values()))): (kernel.file, macros)
            for kernel in cuda.KERNELS.values() for macros in kernel.variants()}


@pytest.fixture(scope="module")
def known():
    """The architectures that this NVRTC knows."""
    pytest.importorskip("cupy", reason="CuPy is not installed; pip install 'minidrop[nvrtc]' brings it and NVRTC")
    from cupy_backends.cuda.libs import nvrtc
    try:
        return nvrtc.getSupportedArchs()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"NVRTC is not installed ({str(error).splitlines()[0]}); pip install 'minidrop[nvrtc]' brings it")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file, macros", VARIANTS.values(), ids=VARIANTS.keys())
def test_compiles(known, file, macros, architecture):
    if architecture not in known:
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    code = loader.compile_for(file, macros, f"sm_{architecture}")
    assert code[:4] == b"\x7fELF"
    names = {kernel.name for kernel in cuda.KERNELS.values() if kernel.file == file}
    assert set(re.findall(rb"\.text\.(\w+)\0", code)) == {name.encode() for name in names}


def test_a_mistake_is_told_with_its_line(known, monkeypatch):
    text = loader.source("transpose.cu")
    monkeypatch.setattr(loader, "source", lambda file: text.replace("__syncthreads();", "__syncthread();", 1))
    with pytest.raises(BackendError, match=r"(?s)^transpose\.cu with {'REAL': 'float'} does not compile for sm_90: .*"
                                           r'transpose\.cu\(\d+\): error: identifier "__syncthread" is undefined'):
        loader.compile_for("transpose.cu", {"REAL": "float"}, "sm_90")
