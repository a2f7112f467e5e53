from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from experiments import _pictures
from experiments._augmentation import Augmentation
from experiments._pictures import (
    DataError,
    digits_pictures,
    grouped_fold,
    halves,
    join,
    load_split,
    olivetti_pictures,
)


def faces(levels: int = 243) -> np.ndarray:
    """As many pictures as the real ones, of the same size and with all their grey values."""
    return (np.arange(400 * 64 * 64) % levels).astype(np.uint8).reshape(400, 64, 64)


def folder_of(tmp_path: Path, pixels: np.ndarray) -> Path:
    np.savez(tmp_path / "olivetti.npz", images=pixels)
    return tmp_path


def known(monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, folder: Path | None = None) -> None:
    """Let these pixels, and the file in this folder, be the ones that the checksums are of."""
    monkeypatch.setattr(_pictures, "OLIVETTI_PIXELS_SHA256", sha256(pixels.tobytes()).hexdigest())
    if folder is not None:
        content = (folder / "olivetti.npz").read_bytes()
        monkeypatch.setattr(_pictures, "OLIVETTI_SHA256", sha256(content).hexdigest())


def test_halves_recombine_to_the_picture() -> None:
    images = torch.rand(3, 1, 4, 6)
    x, y = halves(images)
    assert torch.equal(join(x, y), images)


def test_the_right_half_is_mirrored() -> None:
    x, y = halves(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]))
    assert y.flatten().tolist() == [1, 2]
    assert x.flatten().tolist() == [4, 3]


def test_digits_split_is_by_order_and_covers_everything_once() -> None:
    pictures, split = digits_pictures(), load_split("digits", None, None, 7)
    assert split.validation is not None
    assert [len(split.train), len(split.validation), len(split.score)] == [1100, 250, 447]
    together = torch.cat([split.train.images, split.validation.images, split.score.images])
    assert torch.equal(together, pictures.images)
    assert 0 == together.min() < together.max() == 1


def test_validation_leaves_the_test_pictures_alone_and_splits_no_group() -> None:
    seen = digits_pictures()[:1350]
    split = load_split("digits", None, 2, 7)
    assert split.validation is split.score
    assert len(split.train) + len(split.score) == len(seen)
    assert not set(split.train.group.tolist()) & set(split.score.group.tolist())
    assert max(split.score.group.max(), split.train.group.max()) == seen.group.max()


def test_a_fold_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match=r"--validate 7.*expected 0\.\.6"):
        grouped_fold(digits_pictures()[:350], 7, 7)


def test_faces_are_read_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, faces(), folder_of(tmp_path, faces()))
    split = load_split("olivetti", tmp_path, None, 7)
    assert split.validation is None
    assert [len(split.train), split.train.groups] == [350, 35]
    assert [len(split.score), split.score.groups] == [50, 5]
    assert torch.equal((255 * split.train.images).round().byte()[:, 0], torch.from_numpy(faces()[:350]))


def test_the_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, faces(), folder_of(tmp_path, faces()))
    monkeypatch.setenv("ICNN_DATA", str(tmp_path))
    assert len(olivetti_pictures(None)) == 400


def test_downloaded_pixels_become_the_very_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds a picture per column, and in it one column of the picture after the other."""
    known(monkeypatch, faces())
    monkeypatch.delenv("ICNN_DATA", raising=False)
    savemat(tmp_path / "faces.mat", {"faces": faces().swapaxes(1, 2).reshape(400, -1).T})
    monkeypatch.setattr(_pictures, "downloaded", lambda url, checksum, name: tmp_path / "faces.mat")
    assert torch.equal((255 * olivetti_pictures(None).images).round().byte()[:, 0], torch.from_numpy(faces()))


def test_other_downloaded_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICNN_DATA", raising=False)
    savemat(tmp_path / "faces.mat", {"faces": np.zeros((4096, 400), np.uint8)})
    monkeypatch.setattr(_pictures, "downloaded", lambda url, checksum, name: tmp_path / "faces.mat")
    with pytest.raises(DataError, match="pixels differ"):
        olivetti_pictures(None)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no olivetti.npz in .*--path or ICNN_DATA"):
        olivetti_pictures(tmp_path)


def test_a_damaged_file_is_refused_with_both_checksums(tmp_path: Path) -> None:
    folder_of(tmp_path, faces())
    with pytest.raises(DataError, match=r"damaged.*SHA256 is [0-9a-f]{64}, expected 964b39d2"):
        olivetti_pictures(tmp_path)


def test_no_augmentation_changes_nothing() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(Augmentation()(images), images)


def test_a_certain_flip_mirrors_and_a_shift_of_whole_pixels_moves() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(Augmentation(flip=1.0)(images), images.flip(-1))
    column = torch.zeros(200, 1, 8, 8)
    column[..., 4] = 1
    centres = (Augmentation(shift=(2.0, 0.0))(column).sum(-2) * torch.arange(8)).sum((-1, -2)) / 8
    assert 2 <= centres.min() < 2.5
    assert 5.5 < centres.max() <= 6


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(flip=0.5),
        Augmentation(rotate=5),
        Augmentation(scale=0.1),
        Augmentation(shift=(0, 1)),
        Augmentation(brightness=0.5),
        Augmentation(mix=0.5),
    ],
)
def test_changes_keep_shape_and_range_and_follow_the_seed(augment: Augmentation) -> None:
    images = torch.rand(16, 1, 8, 8)
    torch.manual_seed(3)
    once = augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images), once)
    assert once.shape == images.shape
    assert not torch.equal(once, images)
    assert 0 <= once.min() <= once.max() <= 1
