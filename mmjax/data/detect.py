"""Which kind of source a path is, told by what is there; what showed it is said.

img2dataset's three outputs are told apart by their content: shards (webdataset), Parquet with the
images in it, and files with Parquet tables beside them that hold no image.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmjax.data import storage
from mmjax.data.account import NOTES, Account
from mmjax.data.columns import CAPTION_COLUMNS, LABEL_COLUMNS
from mmjax.data.contents import head_of, suffix_of, what_it_is
from mmjax.data.delimited import read_table
from mmjax.data.layouts import layout_of
from mmjax.data.media import MEDIA, medium_of
from mmjax.data.parquet_file import has_images
from mmjax.data.tree import files_under, passed_over, walk
from mmjax.errors import UserError

_BY_SUFFIX = {".tar": "tar", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
              ".parquet": "parquet", ".txt": "text", ".p": "refcoco"}  # fmt: skip
_SHARDS = {"tar": ".tar", "arrayrecord": ".array_record", "parquet": ".parquet"}
_CALLED = {"arrayrecord": "whole ArrayRecord file", "parquet": "Parquet that can be read",
           "csv": "table", "text": "text", "json": "JSON"}  # fmt: skip
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
BEGINNING = 1 << 16  # bytes of a JSON file that tell what it holds
LOOKED_AT = 8  # Parquet files that may say that there are images in them
_PACKED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".zst", ".zip", ".7z", ".rar")


class Detected(NamedTuple):
    """A kind of source, and by which file."""

    kind: str
    by: str


def detect(path: str, kinds: Collection[str], name: str, labels: bool = False) -> Detected:
    """The kind of what lies at a path, glob or brace range, one of `kinds`; `labels` are wanted.

    UserError: nothing is there, or nobody can tell.
    """
    if path.startswith("generated:"):
        return Detected("generated", "the path says so")
    if path.startswith("records:"):
        return Detected("records", "the path says so")
    if path.startswith("tfds://"):
        return Detected("tfds", "the path says so")
    files = files_of(path, name)
    there = [file for file in files if storage.is_url(file) or Path(file).exists()]
    if Path(there[0]).is_dir():
        return _of_folder(Path(there[0]), name, labels)
    found: dict[str, str] = {}  # kind → the first file of it
    for file in there:
        found.setdefault(_of_file(file), file)
    if "tfrecord" in found:
        raise _no_random_access(path, name)
    for kind in (*_SHARDS, *found):  # tables and statistics may lie beside shards
        if kind in found and kind:
            return Detected(kind, f"{found[kind]} is there")
    what = what_it_is(head_of(there[0]))
    if what:
        raise UserError(f"{name}: {there[0]} is {what}.")
    if storage.is_url(path):
        raise UserError(
            f"{name}: cannot tell the kind of {path}; name its shards, as {path}/*.tar."
        )
    raise UserError(f"{name}: cannot tell the kind of {path}; set kind to one of "
                    f"{', '.join(kinds)}.")  # fmt: skip


def files_of(path: str, name: str) -> list[str]:
    """The files (or the one folder) that a path, glob or brace range names."""
    if storage.is_url(path):
        return storage.expand(path, name)
    if Path(path).exists():
        return [path]
    if not any(c in path for c in "*?[{"):
        raise UserError(f"{name}: the path {path} does not exist.")
    files = storage.expand(path, name)
    if not any(Path(file).exists() for file in files):
        raise UserError(f"{name}: nothing at {files[0]} (from the path {path}).")
    return files


def shards_of(path: str, kind: str, name: str, account: Account) -> list[str]:
    """The files of a kind that lie in a folder, or that a path names; what lies beside them is
    counted. UserError: there are none."""
    shards: list[str] = []
    files = files_of(path, name)
    some = any(_is_shard(file, kind) for file in files)
    for file in files:
        if not storage.is_url(file) and Path(file).is_dir():
            inside = list(_shards_in(Path(file), kind, account))
            if not inside:
                raise UserError(f"{name}: the folder {file} holds no *{_SHARDS[kind]}.")
            shards += inside
        elif _is_shard(file, kind) or not some:  # of any name, if kind says what they are
            shards.append(file)
        else:
            account.unrecognised(suffix_of(file), file)
    return shards


def _shards_in(folder: Path, kind: str, account: Account) -> Iterator[str]:
    for found in files_under(folder, account):
        if not _is_shard(found.name, kind):
            if _is_note(found, kind):
                account.pass_over(NOTES, found)
            else:
                account.unrecognised(suffix_of(found), found)
        elif found.parent == folder:
            yield str(found)
        else:
            account.pass_over("in subfolders, each a path of its own", found)


def _is_note(file: Path, kind: str) -> bool:
    """Whether img2dataset or video2dataset wrote it beside a shard: 00000_stats.json on how the
    download went, or, beside a tar, 00000.parquet with what the JSON in it says."""
    stem = file.name.removesuffix("_stats.json").removesuffix(".parquet")
    return stem != file.name and file.with_name(stem + _SHARDS[kind]).is_file()


def check_contents(files: Sequence[str | Path], kind: str, name: str) -> None:
    """UserError: a file is a git-lfs pointer, a page or an archive in place of what it should be.

    Tar shards are looked at when they are indexed, since some of them may be missing.
    """
    for file in files:
        head = head_of(file) if kind != "tar" and not storage.is_url(str(file)) else b""
        what = what_it_is(head)
        if what and not (kind == "text" and head.lstrip().startswith(b"<")):
            raise UserError(f"{name}: {file} is no {_CALLED[kind]}, but {what}.")


def _of_file(file: str) -> str:
    """The kind of a file, "" if its name does not tell."""
    name = _name(file)
    for mark, kind in ((".array_record", "arrayrecord"), (".tfrecord", "tfrecord")):
        if mark in name:
            return kind
    if layout := layout_of(file):
        return layout
    suffix = suffix_of(name)
    if suffix == ".json" and Path(file).is_file():
        return _of_json(file, name)
    if suffix == ".txt" and Path(file).is_file() and _is_table(file):
        return "csv"
    return _BY_SUFFIX.get(suffix, "")


def _of_json(file: str, name: str) -> str:
    with open(file, "rb") as content:
        head = content.read(BEGINNING)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    line, _, more = text.partition(b"\n")
    if text.startswith(b"[") or (more.lstrip().startswith(b"{") and line.rstrip().endswith(b"}")):
        return "jsonl"  # objects, in a list or one a line
    # Karpathy's images have their split, COCO's not.
    return "karpathy" if name.startswith("dataset") or b'"split"' in head else "coco"


def _is_table(file: str) -> bool:
    """Whether a .txt begins with a header as Flickr8k's captions.txt does: image,caption."""
    line = head_of(file).partition(b"\n")[0].decode("utf-8-sig", "ignore").lower()
    cells = ({cell.strip() for cell in line.split(delimiter)} for delimiter in ",\t;|")
    wanted = {*CAPTION_COLUMNS, *LABEL_COLUMNS}
    shown = {column for about in MEDIA.values() for column in about.columns}
    return any(found & shown and found & wanted for found in cells)


def metadata_of(folder: Path, name: str, labels: bool = False) -> Path | None:
    """The table of the images in a folder, as Hugging Face's imagefolder calls it, if there is one;
    where `labels` are wanted, one that has them: else the folders in it say the classes.

    UserError: there are two.
    """
    found = [folder / f"metadata{suffix}" for suffix in (".csv", ".jsonl")]
    there = [file for file in found if file.is_file()]
    if len(there) > 1:
        raise UserError(f"{name}: {folder} has metadata.csv and metadata.jsonl: name one of them.")
    if labels and there:
        columns, _ = read_table(there[0], name, Account())
        there = there if "label" in {str(column).strip().lower() for column in columns} else []
    return there[0] if there else None


def _of_folder(folder: Path, name: str, labels: bool) -> Detected:
    here = sorted(p for p in folder.iterdir() if p.is_file() and not passed_over(p.name))

    def first(kind: str, among: Sequence[Path] = here) -> Path | None:
        return next((file for file in among if _is_shard(file.name, kind)), None)

    tar, record = first("tar"), first("arrayrecord")
    parquet = [str(file) for file in here if _is_shard(file.name, "parquet")]
    with_images = next(filter(has_images, parquet[:LOOKED_AT]), None)
    arrow = next((file for file in here if suffix_of(file) == ".arrow"), None)
    if tar:
        return Detected("tar", f"{tar.name} is in the folder")
    if arrow:
        raise UserError(
            f"{name}: {folder} holds {arrow.name}, as datasets.save_to_disk writes it: write it "
            "with to_parquet, and give that."
        )
    if (folder / "dataset_info.json").exists():
        return Detected("tfds", "dataset_info.json is in the folder")
    if record:
        return Detected("arrayrecord", f"{record.name} is in the folder")
    if with_images:
        return Detected("parquet", f"{Path(with_images).name} in the folder has images")
    table = metadata_of(folder, name, labels)
    if table:
        kind = _BY_SUFFIX[suffix_of(table)]
        return Detected(kind, f"{table.name} is in the folder, the table of its images")
    shown = next((p for p in walk(folder, Account()) if medium_of(p)), None)
    if shown:
        beside = f", and {Path(parquet[0]).name} has none in it" if parquet else ""
        return Detected("folder", f"{shown.relative_to(folder)} is in it{beside}")
    if parquet:
        return Detected("parquet", f"{Path(parquet[0]).name} is in the folder")
    files = files_under(folder, Account())
    deeper = next(filter(None, (first(kind, files) for kind in _SHARDS)), None)
    if deeper:
        raise UserError(
            f"{name}: the folder {folder} holds shards in subfolders, as {deeper}: name one of "
            f"them, or all by {folder}/*/*{suffix_of(deeper)}."
        )
    packed = next((file for file in files if suffix_of(file) in _PACKED), None)
    if packed:
        what = what_it_is(head_of(packed)) or "packed: unpack it"
        raise UserError(f"{name}: the folder {folder} holds {packed.name}, which is {what}.")
    records = next((file for file in here if _of_file(str(file)) == "tfrecord"), None)
    if records:
        raise _no_random_access(f"'{folder}/*.tfrecord*'", name)
    table = next((file for file in here if suffix_of(file) in _TABLES), None)
    hint = f" Give the table that is in it, {table}." if table else ""
    raise UserError(
        f"{name}: the folder {folder} holds no *.tar, no *.array_record, no *.parquet, no prepared "
        f"TFDS dataset and no images, but {_summary(files)}.{hint}"
    )


def _no_random_access(path: str, name: str) -> UserError:
    return UserError(
        f"{name}: TFRecord files cannot be read at random: run mmjax data convert {path} DIR "
        "--to=arrayrecord once, and give DIR."
    )


def _summary(files: Sequence[Path]) -> str:
    if not files:
        return "nothing"
    return f"{len(files):,} other files (first: {files[0]})"


def _name(file: str) -> str:
    """The last part of a path, lower-case; of a URL without what it asks for."""
    name = file.rpartition("/")[2]
    return (name.partition("?")[0] if storage.is_url(file) else name).lower()


def _is_shard(file: str, kind: str) -> bool:
    name = _name(file)
    return _SHARDS[kind] in name if kind == "arrayrecord" else name.endswith(_SHARDS[kind])
