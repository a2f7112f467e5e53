"""Files are checked, kept, and asked for in words that say the way out."""

from hashlib import sha256
from pathlib import Path

import pooch
import pytest

from experiments._sources import DataError, checked, data_folder, downloaded

CHECKSUM = sha256(b"data").hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    return tmp_path / "icnn"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were asked for; each answers with the same four bytes."""
    asked = []

    def choose(url: str, progressbar: bool):
        def download(url: str, output: str, pooch: object) -> None:
            asked.append(url)
            Path(output).write_bytes(b"data")

        return download

    monkeypatch.setattr("pooch.core.choose_downloader", choose)
    return asked


def test_a_download_is_kept(cache: Path, served: list[str]) -> None:
    file = downloaded("https://example.org/files/7", CHECKSUM, "some.arff")
    assert file == cache / "some.arff"
    assert file.read_bytes() == b"data"
    assert downloaded("https://example.org/files/7", CHECKSUM, "some.arff") == file
    assert served == ["https://example.org/files/7"]


def test_a_download_with_another_checksum_is_refused_and_not_kept(cache: Path, served: list[str]) -> None:
    with pytest.raises(DataError, match=r"hash.*--path names a folder"):
        downloaded("https://example.org/files/7", sha256(b"other").hexdigest(), "some.arff")
    assert not (cache / "some.arff").exists()


def test_no_network_names_the_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, progressbar: bool) -> None:
        raise OSError("no route")

    monkeypatch.setattr("pooch.core.choose_downloader", offline)
    with pytest.raises(DataError, match=r"example.org/a cannot be downloaded \(no route\): --path"):
        downloaded("https://example.org/a", CHECKSUM, "a")


def test_a_file_is_itself_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"data")
    assert checked(file, CHECKSUM) == file
    with pytest.raises(DataError, match=f"damaged.*{CHECKSUM}, expected 0000"):
        checked(file, "0" * 64)


def test_the_path_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICNN_DATA", "there")
    assert data_folder(Path("here")) == Path("here")
    assert data_folder(None) == Path("there")
    monkeypatch.delenv("ICNN_DATA")
    assert data_folder(None) is None
