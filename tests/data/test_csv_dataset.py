"""CSVDataset: columns, categories, quotes, and every wrong file with its line."""

import csv
import random

import numpy as np
import pytest
from cases import in_turn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidrop.data import CSVDataset, DataLoader, csv_dataset
from minidrop.errors import DataError

IRIS = "length,width,species\n5.1,3.5,setosa\n7.0,3.2,versicolor\n6.3,3.3,virginica\n4.9,3,setosa\n"


@pytest.fixture
def table(tmp_path):
    """Write a table and read it."""
    def read(text, **settings):
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return CSVDataset(path, **settings)
    return read


def test_features_and_a_target_of_words(table):
    data = table(IRIS, target="species", categories=["species"])
    x, y = data[:]
    assert x.dtype == np.float32 and x.tolist() == np.array(
        [[5.1, 3.5], [7, 3.2], [6.3, 3.3], [4.9, 3]], np.float32).tolist()
    assert y.dtype == np.int32 and y.tolist() == [0, 1, 2, 0]
    assert data.categories == {"species": ("setosa", "versicolor", "virginica")}
    assert (data.features, data.columns) == (("length", "width"), ("length", "width", "species"))
    assert data.where(2).endswith("a.csv:4") and len(data) == 4
    assert [y.tolist() for _, y in DataLoader(data, 3)] == [[0, 1, 2], [0]]


def test_columns_are_chosen_and_ordered_by_name(table):
    text = "a,b,c,d\n1,2,3,4\n5,6,7,8\n"
    assert table(text)[:][0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and len(table(text)[0]) == 1
    x, y = table(text, features=["d", "a"], target="b", dtype="float64")[:]
    assert (x.tolist(), y.tolist(), x.dtype, y.dtype) == ([[4, 1], [8, 5]], [2, 6], np.float64, np.float64)
    x, y = table(text, target=["d", "b"], target_dtype="int64")[:]
    assert (x.tolist(), y.tolist(), y.dtype) == ([[1, 3], [5, 7]], [[4, 2], [8, 6]], np.int64)
    assert table(text, target=["d"])[:][1].shape == (2, 1)


def test_other_columns_may_hold_anything(table):
    assert table("a,note\n1,x y\n2,\n", features=["a"])[:][0].tolist() == [[1], [2]]


def test_categories_among_the_features_and_from_another_file(table):
    train = table(IRIS, target="length", categories=["species"])
    assert train[:][0][:, 1].tolist() == [0, 1, 2, 0] and train[:][1].dtype == np.float32
    test = table("length,width,species\n1,2,virginica\n", target="length", categories=train.categories)
    assert test[:][0].tolist() == [[2, 2]] and test.categories == train.categories
    given = table(IRIS, target="species", categories={"species": ["virginica", "versicolor", "setosa"]})
    assert given[:][1].tolist() == [2, 1, 0, 2]
    with pytest.raises(DataError, match="a.csv:2: column 'species': expected one of its 3 categories, got "
                       "'virginca'; correct it, or add it to the categories; did you mean 'virginica'"):
        table("length,width,species\n1,2,virginca\n", target="species", categories=train.categories)


def test_without_a_header_columns_have_numbers(table):
    x, y = table("1;2;a\n3;4;b\n", header=False, delimiter=";", target=2, categories=[2])[:]
    assert (x.tolist(), y.tolist()) == ([[1, 2], [3, 4]], [0, 1])
    with pytest.raises(DataError, match="target: expected a column of the file, got 3; it has 0, 1, 2$"):
        table("1;2;a\n", header=False, delimiter=";", target=3)


def test_a_first_row_of_numbers_is_no_header(table):
    """Taken for one, the first record would be lost without a word."""
    with pytest.raises(DataError, match="a.csv:1: expected the names of columns, got nothing but numbers; "
                                        "give header=False if they are data, header=True if they are names"):
        table("5.1,3.5\n4.9,3.0\n")
    assert table("5.1,3.5\n4.9,3.0\n", header=False)[:][0].shape == (2, 2)
    assert table("2019,2020\n4.9,3.0\n", header=True).columns == ("2019", "2020")


def test_what_a_spreadsheet_writes(table):
    """A byte-order mark, line ends of two characters, blank lines, quotes, line breaks in quotes."""
    text = ('\ufeffname,"x"\r\n"a ""b"", c\r\nd",1\r\n\r\n\r\nplain,"2"\r\n"long\nand\nlonger", 3 \r\n')
    data = table(text, categories=["name"])
    assert data.columns == ("name", "x")
    assert data.categories["name"] == ('a "b", c\r\nd', "long\nand\nlonger", "plain")
    assert data[:][0].tolist() == [[0, 1], [2, 2], [1, 3]]
    assert [data.where(row).rpartition(":")[2] for row in range(3)] == ["2", "6", "7"]


def test_missing_numbers(table):
    text = "a,b\n1,\nnan,4\n , 5\n"
    assert table(text, missing=-1)[:][0].tolist() == [[1, -1], [-1, 4], [-1, 5]]
    with pytest.raises(DataError, match="missing: expected a finite number, got nan"):
        table(text, missing=float("nan"))


@in_turn("text, settings, message", [
    ("", {}, "a.csv: expected a table, got an empty file"),
    ("\n\n", {}, "a.csv: expected a table, got an empty file"),
    ("a,b\n", {}, "a.csv: expected at least one row of data, got none"),
    ("a,b\n1,2\n3\n", {}, "a.csv:3: expected 2 fields, as in the first row, got 1; correct the row"),
    ('a,b\n"1\n",2\n\n3,4,5\n', {}, "a.csv:5: expected 2 fields, .* got 3"),
    ("a;b\n1;2\n", {"features": ["a"]}, "features: expected a column of the file, got 'a'; it has 'a;b'"),
    ("a,b\n1,x1\n", {}, "a.csv:2: column 'b': expected a number, got 'x1'; correct it, or name 'b' among"),
    ("a,b\n1,2\n\n1_000,2\n", {}, "a.csv:4: column 'a': expected a number, got '1_000'"),
    ("a,b\n1,2\n1,\n", {}, "a.csv:3: column 'b': expected a number, got ''; fill it in, or give `missing`"),
    ("a,b\n1,2\n1,x\n", {"missing": 0}, "a.csv:3: column 'b': expected a number, got 'x'"),
    ("a,b\n1,2\nNaN,2\n", {}, "a.csv:3: column 'a': expected a finite number, got 'nan'; correct it"),
    ("a,b\n1,2\n2,-inf\n", {"missing": 0}, "a.csv:3: column 'b': expected a finite number, got '-inf'"),
    ("a\n1\n1e39\n", {}, "a.csv:3: column 'a': expected a number that float32 can hold, got '1e[+]39'"),
    ("a,b\n1,2\n1,2.5\n", {"target": "b", "target_dtype": "int32"}, "a.csv:3: .* int32 can hold, got '2.5'"),
    ("a\n300\n", {"dtype": "uint8"}, "a.csv:2: column 'a': expected a number that uint8 can hold"),
    ("a\n-1\n", {"dtype": "uint8"}, "a.csv:2: column 'a': expected a number that uint8 can hold"),
    ("a\n1\n", {"dtype": "S3"}, "a.csv: expected a dtype of numbers, got S3"),
    ("a\n1e300\n", {"dtype": "int64"}, "a.csv:2: .* that int64 can hold"),
    ("a\n9007199254740991\n9007199254740993\n", {"dtype": "int64"}, "a.csv:3: .* that int64 can hold"),
    ("a,b,a\n1,2,3\n", {}, "a.csv:1: expected different names of columns, got 'a' twice; rename one, or"),
    ("a,b\n1,2\n", {"target": "B"}, "target: expected a column .* got 'B'; it has 'a', 'b'; did you mean"),
    ("a,b\n1,2\n", {"categories": ["c"]}, "categories: expected a column of the file, got 'c'"),
    ("a,b\n1,2\n", {"features": "a"}, r"features: expected a list of names, got 'a'; write \[...\]"),
    ("a,b\n1,2\n", {"features": []}, "expected columns of features, and others of the target"),
    ("a,b\n1,2\n", {"features": ["a"], "target": "a"}, "expected columns of features, and others of the tar"),
    ("a\n1\n", {"target": "a"}, r"of the target, got features \[\] and target \['a'\]; the file has 'a'"),
    ("a\nx\n", {"categories": {"a": ["x", "y", "x"]}}, "column 'a': expected different words, got 1 of them"),
    ("a,b\n1,2\n", {"delimiter": ",,"}, "expected a delimiter of one character, got ',,'"),
    ('a,b\n1,2\n"1" 2,3\n', {}, "a.csv:3: expected fields separated by ',', got a row that cannot be read"),
    ('a,b\n1,2\n3,"4\n5,6\n', {}, "a.csv:3: expected fields .*unexpected end of data"),
    (b"a,b\n1,2\n\xff,2\n", {}, "a.csv:3: expected text in UTF-8, got the byte 0xFF"),
    ("a\n" + "1" * 200_000 + "\n", {}, "a.csv:2: expected fields .*field larger than field limit"),
])
def test_what_is_wrong_is_named_with_its_line(table, text, settings, message):
    with pytest.raises(DataError, match=message) as caught:
        table(text, **settings)
    assert "\n" not in str(caught.value) and "a.csv" in str(caught.value)


def test_missing_and_large_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="none.csv: the table cannot be read .No such file"):
        CSVDataset(tmp_path / "none.csv")
    monkeypatch.setattr(csv_dataset, "FILE_BYTES", 10)
    (tmp_path / "a.csv").write_text(IRIS)
    with pytest.raises(DataError, match="a.csv: expected the table of at most 10 bytes, got more"):
        CSVDataset(tmp_path / "a.csv")


def test_what_csv_wrote_is_read_as_it_was(tmp_path):
    """Random tables, through Python's writer; numbers come back to the last bit."""
    draw = random.Random(0)
    for delimiter in ",;\t|":
        rows = [[draw.uniform(-1e6, 1e6), draw.choice(['a"b', "c,d;e", "\n", "", " x", "f\tg|h"])]
                for _ in range(30)]
        with open(tmp_path / "a.csv", "w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["x", "word"], *rows])
        data = CSVDataset(tmp_path / "a.csv", dtype="float64", categories=["word"], delimiter=delimiter)
        words = data.categories["word"]
        assert [[x, words[int(word)]] for x, word in data[:][0].tolist()] == rows


PIECES = st.sampled_from([b"1", b"-2.5", b"x", b",", b",", b"\n", b"\r\n", b'"', b" ", b"nan", b"1e999",
                          b"\0", b"\xff", b"\xc3\xa9", b"_", b"\xef\xbb\xbf", b"a,b\n"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=25).map(b"".join), st.booleans(), st.sampled_from([None, 0]), st.booleans())
def test_any_bytes_give_finite_numbers_or_our_error(table, content, header, missing, words):
    try:
        data = table(content, header=header, missing=missing, categories=[0] if words and not header else [])
    except DataError as error:
        assert "a.csv" in str(error)
    else:
        assert len(data) >= 1 and np.isfinite(data[:][0]).all()
