"""Where data comes from: a folder of the user, or a download that is checked and kept."""

import os
from hashlib import sha256
from pathlib import Path

import pooch


class DataError(Exception):
    """The data is missing, or is not the data that the results were measured on."""


def data_folder(path: Path | None) -> Path | None:
    """The folder that --path names, else the environment variable ICNN_DATA; None if neither does."""
    named = path or os.environ.get("ICNN_DATA")
    return Path(named) if named else None


def checked(file: Path, checksum: str) -> Path:
    """The file itself, once its SHA256 is the expected one."""
    found = sha256(file.read_bytes()).hexdigest()
    if found != checksum:
        raise DataError(f"{file} is damaged or another file: SHA256 is {found}, expected {checksum}")
    return file


def downloaded(url: str, checksum: str, name: str) -> Path:
    """The file from this address with this SHA256, kept by name in the user's cache, where the next call finds it."""
    try:
        return Path(pooch.retrieve(url, f"sha256:{checksum}", fname=name, path=pooch.os_cache("icnn")))
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be downloaded ({error}): --path names a folder that holds the data") from error
