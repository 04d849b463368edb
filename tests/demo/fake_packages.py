"""Tiny packages as npm would deliver them: two emoji by default, each picture one colour."""

import io
import tarfile
from pathlib import Path

from PIL import Image

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9"/></svg>'
DATA = [
    {"label": "regional indicator A", "hexcode": "1F1E6"},
    {"label": "red heart", "hexcode": "2764-FE0F", "tags": ["love"], "order": 2, "group": 8,
     "subgroup": 1},
    {"label": "grinning face", "hexcode": "1F600", "order": 1, "group": 0, "subgroup": 0,
     "skins": [{"label": "grinning face: dark", "hexcode": "1F600-1F3FF"}]},
]  # fmt: skip
MESSAGES = {
    "groups": [{"order": 0, "message": "smileys"}, {"order": 8, "message": "symbols"}],
    "subgroups": [{"order": 0, "message": "smiling"}, {"order": 1, "message": "heart"}],
}


def encoded(kind: str, size: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (size, size), (250, 10, 20, 128)).save(file, kind)
    return file.getvalue()


def write_package(folder: Path, package: str, files: dict[str, bytes]) -> None:
    name, _, version = package.rpartition("@")
    folder.mkdir(parents=True, exist_ok=True)
    tarball = folder / f"{name.strip('@').replace('/', '-')}-{version}.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
