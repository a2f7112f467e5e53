"""ARFF files, dense or sparse, as matrices of numbers, and the label names of the XML files that Mulan lays beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import arff
import numpy as np
from scipy import sparse

from experiments._sources import DataError


@dataclass(frozen=True)
class Relation:
    """The rows of an ARFF file: of nominal attributes the codes, which count from 0 in the order of the header."""

    file: Path
    names: tuple[str, ...]
    values: tuple[tuple[str, ...] | None, ...]
    """Of each nominal attribute those that the header declares; None for a numeric one."""
    codes: sparse.csc_array

    def columns(self, which: Sequence[int]) -> tuple[tuple[str, ...], sparse.csc_array]:
        """These attributes as numbers (n, columns), with the name of each column.

        Nominal values that are numbers stand for themselves; others get a column of 0 and 1 each, "name=value".
        """
        names, parts = zip(*(self._column(j) for j in which), strict=True)
        return tuple(chain.from_iterable(names)), sparse.csc_array(sparse.hstack(parts, format="csc"))

    def _column(self, j: int) -> tuple[list[str], sparse.csc_array]:
        name, values, codes = self.names[j], self.values[j], self.codes[:, [j]]
        if values in (None, ("0", "1")):
            return [name], codes
        assert values is not None
        numbers = _numbers(values)
        codes = codes.toarray().astype(int)
        if numbers is not None:
            return [name], sparse.csc_array(numbers[codes])
        return [f"{name}={value}" for value in values], sparse.csc_array(1.0 * (codes == np.arange(len(values))))


def _numbers(values: tuple[str, ...]) -> np.ndarray | None:
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        return None


def read_arff(file: Path) -> Relation:
    """Read an ARFF file whose attributes are numeric or nominal and whose values are all known."""
    try:
        content = _decoded(file)
    except (OSError, ValueError, arff.ArffException) as error:
        raise DataError(f"{file} cannot be read as ARFF: {error}") from error
    names, kinds = zip(*content["attributes"], strict=True)
    strings = [name for name, kind in content["attributes"] if kind == "STRING"]
    if strings:
        raise DataError(f"{file}: attribute {strings[0]!r} is a string, expected numeric or nominal attributes")
    codes = _matrix(content["data"], len(names))
    unknown = codes.tocoo().row[np.isnan(codes.tocoo().data)]
    if len(unknown):
        raise DataError(f"{file}: row {unknown.min()} (from 0) has a missing value '?', expected known values")
    values = tuple(None if isinstance(kind, str) else tuple(kind) for kind in kinds)
    return Relation(file, names, values, codes)


def _decoded(file: Path) -> dict:
    """The header, and the rows as dicts of what is not zero, or, where the file is dense, as lists."""
    text = file.read_text(encoding="utf-8")
    try:
        return arff.loads(text, encode_nominal=True, return_type=arff.LOD)
    except arff.BadLayout:
        return arff.loads(text, encode_nominal=True, return_type=arff.DENSE)


def _matrix(rows: list, width: int) -> sparse.csc_array:
    """Rows as lists or as dicts of what is not zero; None, a missing value, becomes NaN."""
    if not rows or isinstance(rows[0], list):
        return sparse.csc_array(np.array(rows, dtype=float).reshape(len(rows), width))
    ends = np.cumsum([0, *map(len, rows)])
    indices = np.fromiter(chain.from_iterable(rows), int)
    data = np.array(list(chain.from_iterable(row.values() for row in rows)), dtype=float)
    return sparse.csr_array((data, indices, ends), shape=(len(rows), width)).tocsc()


def header_beside(file: Path) -> Path | None:
    """The XML file in the same folder whose name begins this file's: birds.xml beside birds-train.arff."""
    beside = [xml for xml in file.parent.glob("*.xml") if file.stem.startswith(xml.stem)]
    return max(beside, key=lambda xml: len(xml.stem), default=None)


def label_names(header: Path) -> tuple[str, ...]:
    """The names in a Mulan XML file, a <label name="..."> each; a hierarchy of them is taken as a list."""
    try:
        labels = ElementTree.parse(header).findall(".//{*}label")
        return tuple(label.attrib["name"] for label in labels)
    except (OSError, ElementTree.ParseError, KeyError) as error:
        raise DataError(f"{header} cannot be read as a Mulan header of <label name=...>: {error}") from error
