"""Compiled loops that are kept between runs of the tests."""

import pytest


@pytest.fixture
def checkout(tmp_path):
    """checkout(name, {file: content}) -> the folder of its compiled loops."""
    def make(name, files):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpu.py").write_text("loop")
        place = tmp_path / name / "__pycache__"
        if files:
            place.mkdir()
        for file, content in files.items():
            (place / file).write_text(content)
        return place
    return make


def contents(place):
    return {path.name: path.read_text() for path in place.iterdir()}


def test_a_fresh_checkout_gets_the_loops_of_the_last_one(loops, checkout, tmp_path):
    made = {"cpu.loop.nbi": "index", "cpu.loop.1.nbc": "code"}
    first, fresh = checkout("first", {}), checkout("fresh", {})
    own = checkout("own", {"cpu.loop.nbi": "mine"})
    kept = loops.archive(tmp_path, first.parent)
    assert loops.restore(kept, first)           # nothing is kept yet
    first.mkdir()
    for file, content in made.items():
        (first / file).write_text(content)
    (first / "cpu.pyc").write_text("no loop")
    loops.keep(kept, first)
    assert loops.archive(tmp_path, fresh.parent) == kept
    assert loops.restore(kept, fresh) and contents(fresh) == made
    assert not loops.restore(kept, own) and contents(own) == {"cpu.loop.nbi": "mine"}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {kept.name}


def test_only_more_loops_replace_those_that_are_kept(loops, checkout, tmp_path):
    kept = loops.archive(tmp_path, checkout("no", {}).parent)
    for number, names in enumerate(("ab", "c", "abc")):
        loops.keep(kept, checkout(f"{number}", {f"{name}.nbi": str(number) for name in names}))
    assert loops.restore(kept, found := checkout("found", {}))
    assert contents(found) == {"a.nbi": "2", "b.nbi": "2", "c.nbi": "2"}


def test_an_archive_is_that_of_one_state_of_all_sources(loops, checkout, tmp_path):
    sources = checkout("sources", {}).parent
    before = loops.archive(tmp_path, sources)
    (sources / "other.py").write_text("called")
    between = loops.archive(tmp_path, sources)
    (sources / "other.py").write_text("called, changed")
    assert len({before, between, loops.archive(tmp_path, sources)}) == 3
