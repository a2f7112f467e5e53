"""Problems with many labels: loading, weighting of the features, the validation part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor

from experiments._arff import Relation, header_beside, label_names, read_arff
from experiments._sources import DataError, checked, data_folder, downloaded

Weighting = Literal["none", "binary", "tf-idf"]

MULAN = "https://raw.githubusercontent.com/tsoumakas/mulan/43f6389095ad71984264db4387a8074b22bc7d4a/data/multi-label"
BIBTEX_LABELS = 159
BIBTEX_FILE = "bibtex.npz"
BIBTEX_SHA256 = {
    BIBTEX_FILE: "fe6ca5c8f7cc6a02ce232b8a54f0f4b5c5bd16571ecd9d03d550bec12f1fd5aa",
    "bibtex-train.arff": "8dcc9de6e0b2cebaec8c1f4fac78431adeeb73cfd3ab879b530a66d366e59174",
    "bibtex-test.arff": "9b03329cde64d3f994bdf7fbbac3f3b10fe185c311cb9ae725475f59c7f3f922",
}
DIGITS_TRAIN = 1350
DIGITS_LABELS = {
    "even": {0, 2, 4, 6, 8},
    "above four": {5, 6, 7, 8, 9},
    "prime": {2, 3, 5, 7},
    "square": {0, 1, 4, 9},
    "multiple of three": {0, 3, 6, 9},
    "has a loop": {0, 6, 8, 9},
}


@dataclass(frozen=True)
class Labelled:
    """Rows with features, which are mostly zero, and a set of labels each."""

    features: sparse.csr_array
    """(n, features), float32."""
    labels: Bool[np.ndarray, "n L"]
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | np.ndarray) -> "Labelled":
        return replace(self, features=self.features[index], labels=self.labels[index])

    def tensors(self) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n L"]]:
        """Features and labels as dense float32 tensors."""
        return torch.from_numpy(self.features.toarray()), torch.from_numpy(self.labels).float()


def load_multilabel(
    data: Sequence[str | Path], path: Path | None = None, labels: int | None = None, header: Path | None = None
) -> tuple[Labelled, Labelled]:
    """The training part and the test part of a problem with many labels.

    Args:
        data: "digits", which scikit-learn ships; "bibtex"; or two ARFF files, train and test, dense or sparse.
        path: of bibtex, the folder that holds it (else the environment variable ICNN_DATA, else a download).
        labels: of ARFF files without a header, how many of the last attributes are labels.
        header: of ARFF files, the Mulan XML file with the names of the labels; else one that lies beside the first
            file and whose name begins the file's.
    """
    match tuple(data):
        case ("digits",):
            return _digits()
        case ("bibtex",):
            return _bibtex(data_folder(path))
        case (train, test):
            return _from_arff(Path(train), Path(test), labels, header)
    raise DataError(f"--data is {' '.join(map(str, data))!r}, expected digits, bibtex or two ARFF files")


def _digits() -> tuple[Labelled, Labelled]:
    """scikit-learn's digits, 8 x 8 pixels in [0, 1], labelled by what is true of them; the first 1350 for training."""
    pixels, digit = load_digits(return_X_y=True)
    features = sparse.csr_array(pixels.astype(np.float32) / 16)
    labels = np.stack([np.isin(digit, list(those)) for those in DIGITS_LABELS.values()], 1)
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    everything = Labelled(features, labels, names, tuple(DIGITS_LABELS))
    return everything[:DIGITS_TRAIN], everything[DIGITS_TRAIN:]


def _bibtex(folder: Path | None) -> tuple[Labelled, Labelled]:
    """BibTeX (Katakis, Tsoumakas, Vlahavas 2008): 4880 and 2515 entries, 1836 words, 159 tags."""
    arffs = ("bibtex-train.arff", "bibtex-test.arff")
    if folder is None:
        train, test = (downloaded(f"{MULAN}/bibtex/{name}", BIBTEX_SHA256[name], name) for name in arffs)
        return _from_arff(train, test, BIBTEX_LABELS, None)
    if (folder / BIBTEX_FILE).is_file():
        return _from_npz(checked(folder / BIBTEX_FILE, BIBTEX_SHA256[BIBTEX_FILE]))
    if all((folder / name).is_file() for name in arffs):
        train, test = (checked(folder / name, BIBTEX_SHA256[name]) for name in arffs)
        return _from_arff(train, test, BIBTEX_LABELS, None)
    raise DataError(
        f"neither {BIBTEX_FILE} nor {' and '.join(arffs)} in {folder}: "
        "--path or ICNN_DATA must name the folder that holds them"
    )


def _from_npz(file: Path) -> tuple[Labelled, Labelled]:
    with np.load(file) as arrays:
        names = tuple(tuple(arrays[f"{kind}_names"].tolist()) for kind in ("feature", "label"))
        train, test = (
            Labelled(
                _ones(arrays, f"x_{part}", len(names[0])),
                _ones(arrays, f"y_{part}", len(names[1])).toarray().astype(bool),
                *names,
            )
            for part in ("train", "test")
        )
    return train, test


def _ones(arrays: Mapping[str, np.ndarray], part: str, width: int) -> sparse.csr_array:
    """A CSR matrix that was written without its data, which are all one."""
    indices, ends = (arrays[f"{part}_{key}"].astype(np.int32) for key in ("indices", "indptr"))
    return sparse.csr_array((np.ones(len(indices), np.float32), indices, ends), (len(ends) - 1, width))


def _from_arff(train: Path, test: Path, labels: int | None, header: Path | None) -> tuple[Labelled, Labelled]:
    first, second = read_arff(train), read_arff(test)
    if (first.names, first.values) != (second.names, second.values):
        raise DataError(f"{test} has other attributes than {train}, expected the same in the same order")
    chosen = _label_columns(first, labels, header)
    return _labelled(first, chosen), _labelled(second, chosen)


def _label_columns(relation: Relation, labels: int | None, header: Path | None) -> list[int]:
    """The attributes that are labels: those in the header, else the last ones."""
    width = len(relation.names)
    if labels is not None and header is None:
        if not 1 < labels < width:
            raise DataError(f"--labels {labels}: {relation.file} has {width} attributes, expected 2..{width - 1}")
        return list(range(width - labels, width))
    header = header or header_beside(relation.file)
    if header is None:
        raise DataError(
            f"which attributes of {relation.file} are labels? No Mulan XML file lies beside it: "
            "--header names one, or --labels L takes the last L attributes"
        )
    position = {name: j for j, name in enumerate(relation.names)}
    names = label_names(header)
    strangers = [name for name in names if name not in position]
    if strangers or not 1 < len(names) < width:
        raise DataError(
            f"{header} has {len(names)} labels, expected 2..{width - 1}, "
            f"all among the attributes of {relation.file}; not among them: {strangers}"
        )
    return [position[name] for name in names]


def _labelled(relation: Relation, chosen: list[int]) -> Labelled:
    names, labels = relation.columns(chosen)
    labels = labels.toarray()
    wrong = [
        name
        for name, column in zip(names, labels.T, strict=True)
        if name not in relation.names or not np.isin(column, (0, 1)).all()
    ]
    if wrong:
        raise DataError(f"{relation.file}: label {wrong[0]!r} is not always 0 or 1")
    feature_names, features = relation.columns([j for j in range(len(relation.names)) if j not in set(chosen)])
    features = sparse.csr_array(features, dtype=np.float32)
    features.eliminate_zeros()
    return Labelled(features, labels.astype(bool), feature_names, names)


def weighted(weighting: Weighting, fitted: Labelled, *others: Labelled) -> tuple[Labelled, ...]:
    """The same rows with their features as they are, as 0 and 1, or times the inverse document frequency in fitted."""
    if weighting == "none":
        return fitted, *others
    if weighting == "binary":
        return tuple(
            replace(rows, features=sparse.csr_array(rows.features != 0, dtype=np.float32)) for rows in (fitted, *others)
        )
    transformer = TfidfTransformer().fit(fitted.features)
    return tuple(replace(rows, features=transformer.transform(rows.features)) for rows in (fitted, *others))


def held_out(rows: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split at random into what is fitted and a share for validation, with no input on both sides."""
    splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
    fitted, validation = next(splitter.split(rows.features, groups=_inputs(rows.features)))
    return rows[fitted], rows[validation]


def _inputs(features: sparse.csr_array) -> list[int]:
    """A number for each row, which equal rows share; indices are sorted and no zeros are stored."""
    seen: dict[bytes, int] = {}
    rows = (slice(*ends) for ends in pairwise(features.indptr))
    keys = (features.indices[row].tobytes() + features.data[row].tobytes() for row in rows)
    return [seen.setdefault(key, len(seen)) for key in keys]
