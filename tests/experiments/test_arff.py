"""ARFF files as people write them, dense and sparse, become the same matrix."""

from pathlib import Path

import numpy as np
import pytest

from experiments._arff import header_beside, label_names, read_arff
from experiments._sources import DataError

HEADER = """% weather, by hand
@RELATION 'a name with spaces: -C 2'

@attribute 'wind speed' numeric
@ATTRIBUTE "it's sunny" {0,1}
@attribute colour {red, green, 'pale blue'}
@attribute count INTEGER
@attribute level {10,2}
@attribute 'TAG "quoted" word' {0,1}
"""
DENSE = """@data
% the first row
0.5,1,red,0,10,0
0,0,'pale blue',3,2,1

-1e-2,0,green,0,10,1
0,0,red,0,10,0
"""
SPARSE = """@data
{0 0.5, 1 1}
{2 'pale blue',3 3,4 2,5 1}
% a comment

{5 1,0 -1e-2,2 green}
{}
"""
NAMES = (
    "wind speed",
    "it's sunny",
    "colour=red",
    "colour=green",
    "colour=pale blue",
    "count",
    "level",
    'TAG "quoted" word',
)
ROWS = [
    [0.5, 1, 1, 0, 0, 0, 10, 0],
    [0, 0, 0, 0, 1, 3, 2, 1],
    [-0.01, 0, 0, 1, 0, 0, 10, 1],
    [0, 0, 1, 0, 0, 0, 10, 0],
]


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "file.arff"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("data", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_values_are_those_of_the_file(tmp_path: Path, data: str) -> None:
    names, columns = read_arff(written(tmp_path, HEADER + data)).columns(range(6))
    assert names == NAMES
    np.testing.assert_array_equal(columns.toarray(), ROWS)


def test_an_order_of_attributes_is_kept(tmp_path: Path) -> None:
    names, columns = read_arff(written(tmp_path, HEADER + SPARSE)).columns([3, 0])
    assert names == ("count", "wind speed")
    np.testing.assert_array_equal(columns.toarray(), np.array(ROWS)[:, [5, 0]])


@pytest.mark.parametrize("data", ["@data\n?,1,red,0,10,0", "@data\n{1 1}\n{0 ?}"], ids=["dense", "sparse"])
def test_a_missing_value_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(DataError, match=r"file.arff: row [01] \(from 0\) has a missing value"):
        read_arff(written(tmp_path, HEADER + data))


def test_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"attribute 'words' is a string"):
        read_arff(written(tmp_path, "@relation r\n@attribute words string\n@data\n'some words'"))


@pytest.mark.parametrize(
    "data",
    ["@data\n1,0,red", "@data\nmuch,1,red,0,10,0", "@data\n0,1,black,0,10,0", "@data\n{77 1}", "0,1"],
    ids=["short row", "no number", "undeclared value", "no such attribute", "no @data"],
)
def test_what_is_no_arff_is_refused_with_its_place(tmp_path: Path, data: str) -> None:
    with pytest.raises(DataError, match=r"file.arff cannot be read as ARFF: .*line \d+"):
        read_arff(written(tmp_path, HEADER + data))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_arff(tmp_path / "none.arff")


def test_label_names_come_from_the_xml_also_nested(tmp_path: Path) -> None:
    xml = tmp_path / "birds.xml"
    xml.write_text(
        '<?xml version="1.0" encoding="utf-8"?><labels xmlns="http://mulan.sourceforge.net/labels">'
        '<label name="Brown &amp; white"><label name="Creeper"></label></label><label name="Wren"/></labels>'
    )
    assert label_names(xml) == ("Brown & white", "Creeper", "Wren")
    xml.write_text("<labels>")
    with pytest.raises(DataError, match=r"birds.xml cannot be read"):
        label_names(xml)


def test_the_header_beside_is_the_one_with_the_longest_name_in_common(tmp_path: Path) -> None:
    assert header_beside(tmp_path / "birds-train.arff") is None
    for name in ("b.xml", "birds.xml", "birds-train-2.xml", "words.xml"):
        (tmp_path / name).touch()
    assert header_beside(tmp_path / "birds-train.arff") == tmp_path / "birds.xml"
