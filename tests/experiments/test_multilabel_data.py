"""Every form of the same problem gives the same arrays, in parts that share no input."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits

from experiments import _multilabel_data
from experiments._multilabel_data import Labelled, held_out, load_multilabel, weighted
from experiments._sources import DataError, sha256

FEATURES, LABELS = ("0", "don't", "two words"), ("TAG_a", "TAG_b")
REAL = Path(os.environ.get("ICNN_DATA", "."))


def drawn(n: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    features = sparse.csr_array((rng.random((n, 3)) < 0.4).astype(np.float32))
    return Labelled(features, rng.random((n, 2)) < 0.3, FEATURES, LABELS)


def as_arff(rows: Labelled, file: Path, dense: bool = False) -> Path:
    """Labels last, as in BibTeX; every attribute is {0,1}."""
    lines = ["% by hand", "@relation some", *(f'@attribute "{n}" {{0,1}}' for n in FEATURES + LABELS), "@data"]
    for row in np.hstack([rows.features.toarray(), rows.labels]).astype(int):
        lines.append(",".join(map(str, row)) if dense else f"{{{','.join(f'{j} 1' for j in np.flatnonzero(row))}}}")
    file.write_text("\n".join(lines))
    return file


def as_npz(train: Labelled, test: Labelled, file: Path) -> Path:
    arrays: dict[str, Any] = {"feature_names": np.array(FEATURES), "label_names": np.array(LABELS)}
    for name, rows in (("train", train), ("test", test)):
        for letter, matrix in (("x", rows.features), ("y", sparse.csr_array(rows.labels))):
            arrays[f"{letter}_{name}_indices"] = matrix.indices.astype(np.uint8)
            arrays[f"{letter}_{name}_indptr"] = matrix.indptr
    np.savez(file, **arrays)
    return file


def assert_same(found: Labelled, expected: Labelled) -> None:
    assert found.features.dtype == np.float32
    assert found.labels.dtype == bool
    np.testing.assert_array_equal(found.features.toarray(), expected.features.toarray())
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.feature_names, found.label_names) == (expected.feature_names, expected.label_names)


@pytest.fixture
def bibtex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Labelled, Labelled]:
    """A small problem in every form that BibTeX has, with its checksums, in tmp_path/npz and tmp_path/arff."""
    train, test = drawn(12, 0), drawn(7, 1)
    (tmp_path / "npz").mkdir()
    (tmp_path / "arff").mkdir()
    files = [
        as_npz(train, test, tmp_path / "npz" / "bibtex.npz"),
        as_arff(train, tmp_path / "arff" / "bibtex-train.arff"),
        as_arff(test, tmp_path / "arff" / "bibtex-test.arff"),
    ]
    checksums = {file.name: sha256(file.read_bytes()).hexdigest() for file in files}
    monkeypatch.setattr(_multilabel_data, "BIBTEX_SHA256", checksums)
    monkeypatch.setattr(_multilabel_data, "BIBTEX_LABELS", 2)
    monkeypatch.delenv("ICNN_DATA", raising=False)
    return train, test


@pytest.mark.parametrize("form", ["npz", "arff"])
def test_bibtex_is_the_same_in_every_form(form: str, tmp_path: Path, bibtex: tuple[Labelled, Labelled]) -> None:
    for found, expected in zip(load_multilabel(["bibtex"], tmp_path / form), bibtex, strict=True):
        assert_same(found, expected)


def test_bibtex_may_come_from_the_environment_or_a_download(
    tmp_path: Path, bibtex: tuple[Labelled, Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def download(url: str, checksum: str, name: str) -> Path:
        asked[url] = checksum
        return tmp_path / "arff" / name

    monkeypatch.setattr(_multilabel_data, "downloaded", download)
    assert_same(load_multilabel(["bibtex"])[1], bibtex[1])
    assert [url.rsplit("/", 2)[1:] for url in asked] == [["bibtex", name] for name in list(CHECKSUMS)[1:]]
    assert list(asked.values()) == list(_multilabel_data.BIBTEX_SHA256.values())[1:]
    monkeypatch.setenv("ICNN_DATA", str(tmp_path / "npz"))
    assert_same(load_multilabel(["bibtex"])[0], bibtex[0])
    assert len(asked) == 2


CHECKSUMS = dict(_multilabel_data.BIBTEX_SHA256)


@pytest.mark.parametrize("form", ["npz", "arff"])
def test_another_bibtex_is_refused(form: str, tmp_path: Path, bibtex: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_multilabel_data, "BIBTEX_SHA256", CHECKSUMS)
    with pytest.raises(DataError, match="damaged or another file"):
        load_multilabel(["bibtex"], tmp_path / form)


def test_a_folder_without_bibtex_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither bibtex.npz nor bibtex-train.arff and .* in .*--path or ICNN_DATA"):
        load_multilabel(["bibtex"], tmp_path)


@pytest.mark.skipif(not (REAL / "bibtex.npz").is_file(), reason="ICNN_DATA names no folder with BibTeX")
def test_the_real_bibtex_has_its_sizes() -> None:
    train, test = load_multilabel(["bibtex"], REAL)
    assert (len(train), len(test)) == (4880, 2515)
    for rows, cardinality in ((train, 2.38), (test, 2.44)):
        x, y = rows.tensors()
        assert x.shape == (len(rows), len(rows.feature_names)) == (len(rows), 1836)
        assert y.shape == (len(rows), len(rows.label_names)) == (len(rows), 159)
        assert rows.labels.any(1).all()
        assert rows.labels.sum(1).mean() == pytest.approx(cardinality, abs=5e-3)


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_any_two_arff_files_will_do(dense: bool, tmp_path: Path) -> None:
    parts = drawn(12, 0), drawn(7, 1)
    files = [as_arff(rows, tmp_path / f"{i}.arff", dense) for i, rows in enumerate(parts)]
    for found, expected in zip(load_multilabel(files, labels=2), parts, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("named", [False, True], ids=["beside", "named"])
def test_the_header_says_which_attributes_are_labels(named: bool, tmp_path: Path) -> None:
    rows = drawn(12, 0)
    file = as_arff(rows, tmp_path / "some-train.arff")
    header = tmp_path / ("other.xml" if named else "some.xml")
    header.write_text('<labels><label name="TAG_b"/><label name="0"/></labels>')
    found, _ = load_multilabel([file, file], header=header if named else None)
    assert found.label_names == ("TAG_b", "0")
    assert found.feature_names == ("don't", "two words", "TAG_a")
    features = rows.features.toarray()
    np.testing.assert_array_equal(found.labels, np.stack([rows.labels[:, 1], features[:, 0]], 1))
    np.testing.assert_array_equal(found.features.toarray(), np.hstack([features[:, 1:], rows.labels[:, :1]]))


def test_arff_files_without_labels_are_refused(tmp_path: Path) -> None:
    file = as_arff(drawn(3, 0), tmp_path / "some.arff")
    with pytest.raises(DataError, match=r"which attributes of .*some.arff are labels\?.*--header.*--labels"):
        load_multilabel([file, file])
    with pytest.raises(DataError, match=r"--labels 5: .*some.arff has 5 attributes, expected 2..4"):
        load_multilabel([file, file], labels=5)
    (tmp_path / "some.xml").write_text('<labels><label name="0"/><label name="TAG_c"/></labels>')
    with pytest.raises(DataError, match=r"some.xml has 2 labels, expected 2..4, .*; not among them: \['TAG_c'\]"):
        load_multilabel([file, file])


@pytest.mark.parametrize(("kind", "value"), [("numeric", "0.5"), ("{no,yes}", "yes")])
def test_a_label_is_0_or_1(kind: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "some.arff"
    file.write_text(
        f"@relation r\n@attribute a numeric\n@attribute b {kind}\n@attribute c {{0,1}}\n@data\n1,{value},1\n"
    )
    with pytest.raises(DataError, match=r"some.arff: label 'b(=no)?' is not always 0 or 1"):
        load_multilabel([file, file], labels=2)


def test_parts_with_other_attributes_are_refused(tmp_path: Path) -> None:
    file = as_arff(drawn(3, 0), tmp_path / "some.arff")
    other = tmp_path / "other.arff"
    other.write_text(file.read_text().replace("two words", "three words"))
    with pytest.raises(DataError, match=r"other.arff has other attributes than .*some.arff"):
        load_multilabel([file, other], labels=2)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"--data is 'scene', expected digits, bibtex or two ARFF files"):
        load_multilabel(["scene"])


def test_the_digits_are_labelled_by_what_is_true_of_them() -> None:
    train, test = load_multilabel(["digits"])
    assert (len(train), len(test)) == (1350, 447)
    _, digit = load_digits(return_X_y=True)
    even, above_four, *_, loop = np.concatenate([train.labels, test.labels]).T
    np.testing.assert_array_equal(even, digit % 2 == 0)
    np.testing.assert_array_equal(above_four, digit > 4)
    assert set(digit[loop]) == {0, 6, 8, 9}
    assert train.features.min() == 0 < train.features.max() == 1


def test_tensors_are_the_same_rows_dense() -> None:
    x, y = drawn(5, 0).tensors()
    assert x.dtype == y.dtype == torch.float32
    np.testing.assert_array_equal(x.numpy(), drawn(5, 0).features.toarray())
    np.testing.assert_array_equal(y.numpy(), drawn(5, 0).labels)


def test_equal_inputs_are_held_out_together() -> None:
    rows = drawn(200, 0)  # of 8 different inputs
    fitted, validation = held_out(rows, 0.4, 0)
    assert len(fitted) + len(validation) == 200
    assert 0 < len(validation) < 200
    inputs = [{tuple(row) for row in part.features.toarray()} for part in (fitted, validation)]
    assert not inputs[0] & inputs[1]
    assert len(inputs[0] | inputs[1]) == 8


def test_inputs_are_equal_however_their_rows_are_written(tmp_path: Path) -> None:
    file = tmp_path / "some.arff"
    ways = ["{0 0,1 2,2 3}", "{2 3,1 2}", "{1 2,2 3,3 1}", "{1 2}"]
    attributes = [f"@attribute {name} numeric" for name in "abcde"]
    file.write_text("\n".join(["@relation r", *attributes, "@data", *ways * 5]))
    parts = held_out(load_multilabel([file, file], labels=2)[0], 0.5, 0)
    assert sorted((len(part), len(np.unique(part.features.toarray(), axis=0))) for part in parts) == [(5, 1), (15, 1)]


def test_the_seed_chooses_what_is_held_out() -> None:
    rows = load_multilabel(["digits"])[0]
    fitted, validation = held_out(rows, 0.2, 0)
    assert len(validation) == 270
    assert_same(held_out(rows, 0.2, 0)[1], validation)
    other = held_out(rows, 0.2, 1)[1]
    assert not np.array_equal(other.labels, validation.labels)
    found = np.sort(np.concatenate([part.features.toarray() @ np.arange(64) for part in (fitted, validation)]))
    np.testing.assert_allclose(found, np.sort(rows.features.toarray() @ np.arange(64)))


def test_weightings() -> None:
    fitted, other = load_multilabel(["digits"])
    same = weighted("none", fitted, other)
    assert same[0] is fitted
    assert same[1] is other
    binary = weighted("binary", fitted, other)[1].features
    np.testing.assert_array_equal(binary.toarray(), other.features.toarray() > 0)
    documents = (fitted.features.toarray() != 0).sum(0)
    expected = other.features.toarray() * (1 + np.log((1 + len(fitted)) / (1 + documents)))
    found = weighted("tf-idf", fitted, other)[1].features
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)
