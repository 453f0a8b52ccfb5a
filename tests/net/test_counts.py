"""Every layer type says how many bottoms and tops it takes: too few and too many are one message."""

import pytest
from cases import in_turn

from minidrop import ConfigError, Net
from minidrop.config import parse_net
from minidrop.layers import known_layers, layer_class

BLOBS = 6
DATA = (f'layer {{ name: "in" type: "Input" {" ".join(f"""top: "x{i}" """ for i in range(BLOBS))} '
        f'input_param {{ shape {{ dim: 4 dim: 3 }} }} }}\n')
COUNTS = (0, 0), (0, 1), (1, 0), (2, 0), (BLOBS, BLOBS), (2, 1), (1, 2), (0, 2), (3, 1)


def words(allowed, what):
    least, most = allowed
    count = f"at least {least}" if most is None else f"{least}" if least == most else f"{least} to {most}"
    return f"expected {count} {what}{'s' * ((most or least) != 1)}"


@in_turn("kind", known_layers())
@in_turn("bottoms, tops", COUNTS)
def test_numbers_of_blobs(kind, bottoms, tops):
    """Wrong ones are named; where both are right, what the layer lacks is one line each, and no traceback."""
    blobs = [f'bottom: "x{i}"' for i in range(bottoms)] + [f'top: "y{i}"' for i in range(tops)]
    text = f'{DATA}layer {{ name: "it" type: "{kind}" {" ".join(blobs)} }}'
    if kind.endswith("Loss"):
        tops = max(tops, 1)         # a loss without a top gets one of its own name
    wrong = [f"net.prototxt:2:1: layer 'it' ({kind}): {words(allowed, what)}, got {got}"
             for what, allowed, got in (("bottom", layer_class(kind).bottoms, bottoms),
                                        ("top", layer_class(kind).tops, tops))
             if got < allowed[0] or (allowed[1] is not None and got > allowed[1])]
    try:
        Net(parse_net(text, "net.prototxt"), device="cpu").close()
        lines = []
    except ConfigError as error:
        lines = error.lines
    if wrong:
        assert lines == wrong
    assert all(line.startswith("net.prototxt:2:") and f": layer 'it' ({kind}): " in line for line in lines)


@in_turn("kind", [kind for kind in known_layers() if layer_class(kind).bottoms[0]])
def test_a_bottom_that_nobody_writes_is_the_one_mistake(kind):
    least = layer_class(kind).bottoms[0]
    text = " ".join('bottom: "lost"' for _ in range(least)) + " ".join(
        f' top: "y{i}"' for i in range(layer_class(kind).tops[0]))
    with pytest.raises(ConfigError) as caught:
        Net(parse_net(f'{DATA}layer {{ name: "it" type: "{kind}" {text} }}', "net.prototxt"), device="cpu")
    # What its own settings lack is another.
    assert all("bottom 'lost' is written by no layer" in line or "_param needs " in line
               for line in caught.value.lines)
