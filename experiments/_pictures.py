"""Pictures to complete: loading, fixed splits, halves."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.io import loadmat
from sklearn.datasets import load_digits
from sklearn.model_selection import GroupKFold
from torch import Tensor

from experiments._sources import DataError, checked, data_folder, downloaded

OLIVETTI_FILE = "olivetti.npz"
OLIVETTI_SHA256 = "964b39d21eee062619f7af4882e424cb9d5fd261cae8b9965aa8e71280fc46fb"  # of the file
OLIVETTI_PIXELS_SHA256 = "a3f75007cc103363b61a63e06bec8ea4846407682ef6e7c9ae1eb9c1bd0e8a00"  # of the uint8 array
OLIVETTI_URL = "https://ndownloader.figshare.com/files/5976027"  # from where scikit-learn has it, too
OLIVETTI_MAT_FILE = "olivettifaces.mat"
OLIVETTI_MAT_SHA256 = "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794"


@dataclass(frozen=True)
class Pictures:
    """Grey pictures in [0, 1] with the group that each belongs to (person, or an unknown hand)."""

    images: Float[Tensor, "n 1 height width"]
    group: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> "Pictures":
        return Pictures(self.images[index], self.group[index])

    @property
    def groups(self) -> int:
        return len(self.group.unique())


@dataclass(frozen=True)
class Split:
    """Pictures to fit on, to watch while fitting (may be None), and to score at the end."""

    train: Pictures
    validation: Pictures | None
    score: Pictures


def halves(
    images: Float[Tensor, "n 1 height width"],
) -> tuple[Float[Tensor, "n 1 height half"], Float[Tensor, "n 1 height half"]]:
    """Return x, the right half mirrored (the middle is at the same edge of both), and y, the left half."""
    left, right = images.chunk(2, dim=-1)
    return right.flip(-1), left


def join(x: Float[Tensor, "n 1 height half"], y: Float[Tensor, "n 1 height half"]) -> Float[Tensor, "n 1 height width"]:
    """Put the halves back together: the inverse of ``halves``."""
    return torch.cat([y, x.flip(-1)], dim=-1)


def digits_pictures() -> Pictures:
    """scikit-learn's bundled digits: 1797 pictures of 8 x 8, values 0..16.

    The writers are not recorded, but neighbours in the file are often by one hand: a group is 50 in a row.
    """
    pixels, _ = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return Pictures(images, torch.arange(len(images)) // 50)


def olivetti_pictures(path: Path | None) -> Pictures:
    """Olivetti faces (AT&T Laboratories Cambridge): 400 pictures of 64 x 64, ten of each of forty persons."""
    folder = data_folder(path)
    pixels = _read_olivetti(folder) if folder else _download_olivetti()
    if sha256(pixels.tobytes()).hexdigest() != OLIVETTI_PIXELS_SHA256:
        raise DataError("the Olivetti pixels differ from those that the results were measured on (SHA256 of the array)")
    return Pictures(torch.from_numpy(pixels).float().unsqueeze(1) / 255, torch.arange(len(pixels)) // 10)


def _read_olivetti(folder: Path) -> np.ndarray:
    file = folder / OLIVETTI_FILE
    if not file.is_file():
        raise DataError(f"no {OLIVETTI_FILE} in {folder}: --path or ICNN_DATA must name the folder that holds it")
    with np.load(checked(file, OLIVETTI_SHA256)) as arrays:
        return np.ascontiguousarray(arrays["images"])


def _download_olivetti() -> np.ndarray:
    """A MATLAB matrix with a column per picture, which holds one column of the picture after the other."""
    faces = loadmat(downloaded(OLIVETTI_URL, OLIVETTI_MAT_SHA256, OLIVETTI_MAT_FILE))["faces"]
    upright = faces.T.reshape(-1, 64, 64).swapaxes(1, 2)
    return np.ascontiguousarray(upright - upright.min(), dtype=np.uint8)


def grouped_fold(pictures: Pictures, fold: int, folds: int) -> tuple[Pictures, Pictures]:
    """Split into fitted and held-out pictures with no group on both sides."""
    if not 0 <= fold < folds:
        raise DataError(f"--validate {fold}: there is no such fold, expected 0..{folds - 1}")
    splits = list(GroupKFold(folds).split(pictures.images, groups=pictures.group))
    fitted, held_out = splits[fold]
    return pictures[torch.from_numpy(fitted)], pictures[torch.from_numpy(held_out)]


def load_split(data: str, path: Path | None, validate: int | None, folds: int) -> Split:
    """The fixed split, by order, so that nobody is on both sides.

    digits: 1100 fitted, 250 for validation, 447 test. olivetti: 350 fitted (35 persons), 50 test (5 persons).
    With ``validate`` the test is left alone: that fold of the other pictures is held out, watched and scored.
    """
    pictures = digits_pictures() if data == "digits" else olivetti_pictures(path)
    fitted, watched = (1100, 1350) if data == "digits" else (350, 350)
    if validate is not None:
        train, held_out = grouped_fold(pictures[:watched], validate, folds)
        return Split(train, held_out, held_out)
    validation = pictures[fitted:watched] if watched > fitted else None
    return Split(pictures[:fitted], validation, pictures[watched:])
