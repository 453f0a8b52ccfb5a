"""Registry: names, duplicates, and what is said of unknown names."""

import pytest

from minidrop.errors import ConfigError
from minidrop.registry import Registry


@pytest.fixture
def shapes():
    shapes = Registry("blob shape", "name")
    shapes.register("Round")(type("Round", (), {}))
    shapes.register("Cube")(type("Cube", (), {}))
    return shapes


def test_what_is_registered_is_found_and_knows_its_name(shapes):
    assert shapes.names() == ["Cube", "Round"]
    assert "Cube" in shapes and "cube" not in shapes
    assert shapes.get("Cube").__name__ == shapes.get("Cube").name == "Cube"


def test_a_function_is_registered_as_it_is():
    numbers = Registry("number")

    @numbers.register("one")
    def one():
        return 1
    assert numbers.get("one") is one and not hasattr(one, "name")


@pytest.mark.parametrize("name, message", [
    ("Cubes", "unknown blob shape 'Cubes'; did you mean 'Cube'? (known shapes: Cube, Round)"),
    ("cube", "unknown blob shape 'cube'; did you mean 'Cube'? (known shapes: Cube, Round)"),
    ("", "unknown blob shape '' (known shapes: Cube, Round)"),
])
def test_an_unknown_name(shapes, name, message):
    with pytest.raises(ConfigError) as caught:
        shapes.get(name)
    assert str(caught.value) == message


def test_in_any_case(shapes):
    shapes.register("CUBE")(type("Another", (), {}))
    for name in ("CUBE", "Cube"):
        assert shapes.get(name, any_case=True).name == name
    assert shapes.get("rOUND", any_case=True).name == "Round"
    with pytest.raises(ConfigError, match="^unknown blob shape 'Ring'"):
        shapes.get("Ring", any_case=True)


def test_a_name_is_taken_once(shapes):
    class Other:
        name = "mine"
    with pytest.raises(ValueError) as caught:
        shapes.register("Cube")(Other)
    before = shapes.get("Cube")
    assert str(caught.value) == f"blob shape 'Cube' is registered twice: by {before} and {Other}"
    assert shapes.get("Cube") is not Other and Other.name == "mine"


def test_forgetting(shapes):
    with pytest.raises(KeyError), shapes.forgetting():
        shapes.register("Cone")(type("Cone", (), {}))
        assert "Cone" in shapes
        raise KeyError
    assert shapes.names() == ["Cube", "Round"]
