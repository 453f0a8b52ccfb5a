"""Every variant of every kernel compiles for every GPU that is supported, without one."""

import re
import struct

import pytest

from minidrop.config import parse_solver
from minidrop.errors import BackendError
from minidrop.kernels import cuda, loader
from minidrop.kernels.formulas import in_c
from minidrop.solver.rules import get_rule, known_rules


def formula_in_c(name):
    """Return the formula of a rule as its kernel gets it."""
    rule = get_rule(parse_solver(f"type: '{name}' base_lr: 0.1").message)
    return in_c(rule.formula, rule.slots, len(rule.numbers(0.1, 0.0, 0)))


ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
VARIANTS = {"-".join(map(str, (kernel.file, *macros.values()))): (kernel.file, macros)
            for kernel in cuda.KERNELS.values() for macros in kernel.variants()}
# What the formula of an update rule becomes, of the rules with a kernel of their own none.
VARIANTS |= {f"rule.cu-{name}-{real}": ("rule.cu", {"REAL": real, "FORMULA": text})
             for name in known_rules() if name != "SGD" for real in loader.REALS.values()
             for text in [formula_in_c(name)]}
# Code differs between 75 and what came later. So every variant is compiled for one of each, and for the
# others those of float32; of the one large kernel those of one tile and one product. Of these others only the
# newest is always compiled for.
_MOST = {"REAL": "float", "FORMULA": formula_in_c("AdamW"), "TILE_M": 128, "TILE_N": 128, "TRANS_A": 0,
         "TRANS_B": 1}
CASES = {f"{name}-sm_{architecture}": (*variant, architecture) for name, variant in VARIANTS.items()
         for architecture in ARCHITECTURES
         if architecture in (75, 90) or all(_MOST.get(macro, value) == value
                                            for macro, value in variant[1].items())}
CASES = {name: pytest.param(*case, marks=() if case[2] in (75, 90, max(ARCHITECTURES)) else pytest.mark.full)
         for name, case in CASES.items()}


@pytest.fixture(scope="module")
def known():
    """The architectures that this NVRTC knows."""
    pytest.importorskip("cupy", reason="CuPy is not installed; pip install 'minidrop[nvrtc]' brings it and "
                        "NVRTC")
    from cupy_backends.cuda.libs import nvrtc
    try:
        return nvrtc.getSupportedArchs()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"NVRTC is not installed ({str(error).splitlines()[0]}); pip install 'minidrop[nvrtc]' "
                    f"brings it")


@pytest.fixture
def compiled(known, builds):
    """compiled(file, macros, architecture) -> what loader.compile_for says, kept between runs."""
    from cupy_backends.cuda.libs import nvrtc

    def find(file, macros, architecture):
        how = (*nvrtc.getVersion(), *loader.options(macros), *loader.CUPYS_OPTIONS, architecture, file)
        path = builds.built((*how, loader.source(file)), ".cubin",
                            lambda path: path.write_bytes(loader.compile_for(file, macros, architecture)))
        return path.read_bytes()
    return find


@pytest.mark.parametrize("file, macros, architecture", CASES.values(), ids=CASES.keys())
def test_compiles(known, compiled, file, macros, architecture):
    if architecture not in known:
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    code = compiled(file, macros, f"sm_{architecture}")
    assert code[:4] == b"\x7fELF"
    names = {kernel.name for kernel in cuda.KERNELS.values() if kernel.file == file}
    assert set(re.findall(rb"\.text\.(\w+)\0", code)) == {name.encode() for name in names}
    assert not any(stack_bytes(code)), "what should stay in registers lies in memory"


def stack_bytes(code):
    """What each kernel of an ELF file needs of local memory: EIATTR_FRAME_SIZE, 0x11, in its section
    .nv.info."""
    [sections], [size, count, names] = struct.unpack_from("<Q", code,
                                                          0x28), struct.unpack_from("<HHH", code, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", code, sections + i * size) for i in range(count)]
    name_of = [code[headers[names][4] + header[0]:].split(b"\0")[0] for header in headers]
    [(*_, place, length)] = [header for header, name in zip(headers, name_of, strict=True)
                             if name == b".nv.info"]
    end, found = place + length, []
    while place < end:
        form, attribute, value = struct.unpack_from("<BBH", code, place)
        place += 4
        if form == 4:       # `value` is the length of what follows: the kernel's symbol and a number
            if attribute == 0x11:
                found.append(struct.unpack_from("<I", code, place + 4)[0])
            place += value
    assert found
    return found


def test_what_was_kept_is_what_the_compiler_makes(known, compiled):
    """This one is always compiled."""
    variant = "transpose.cu", {"REAL": "double"}, "sm_90"
    assert compiled(*variant) == loader.compile_for(*variant)


def test_a_mistake_is_told_with_its_line(known, monkeypatch):
    text = loader.source("transpose.cu")
    monkeypatch.setattr(loader, "source", lambda file: text.replace("__syncthreads();", "__syncthread();", 1))
    with pytest.raises(BackendError,
                       match=r"(?s)^transpose\.cu with {'REAL': 'float'} does not compile for sm_90: .*"
                                           r'transpose\.cu\(\d+\): error: identifier "__syncthread" is '
                       r'undefined'):
        loader.compile_for("transpose.cu", {"REAL": "float"}, "sm_90")
