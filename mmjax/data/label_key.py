"""Where the class numbers of some data are, if nobody says it."""

import itertools
import os

from mmjax.data.account import Account
from mmjax.data.detect import shards_of
from mmjax.data.storage import Blocks, stamps
from mmjax.data.tar_members import BadShard, members
from mmjax.data.texts import read_json
from mmjax.errors import UserError

FIELDS = ("label", "cls")  # of JSON
FEW = 64  # members that show what a shard holds


def find_label(kind: str, path: str, name: str) -> str:
    """The key `label` of data of a kind: of tar shards `cls` (webdataset's member) or a field of
    their JSON, of tables the column "label".

    UserError: shards without either.
    """
    if kind == "tar":
        return _of_shard(shards_of(path, "tar", name, Account())[0], name)
    return "label" if kind in ("csv", "jsonl", "parquet") else ""


def _of_shard(shard: str, name: str) -> str:
    found, fields = dict[str, None](), dict[str, None]()
    (stamp,) = stamps([shard], name)
    if stamp is None:  # the source says so
        return "cls"
    data = Blocks(shard, stamp[0])
    try:
        for member, at, length in itertools.islice(members(data, Account(), shard), FEW):
            suffix = os.path.splitext(member)[1].lower()
            found[suffix] = None
            if suffix == ".json":
                values = read_json(data[at : at + length])
                fields |= dict.fromkeys(values if isinstance(values, dict) else ())
    except (BadShard, OSError, ValueError):  # what was seen up to there decides
        pass
    if ".cls" in found or not found:
        return "cls"
    label = next((field for field in FIELDS if field in fields), "")
    if not label:
        has = ", ".join(found) + (f" (with {', '.join(fields)})" if fields else "")
        raise UserError(
            f"{name}: {shard} has neither .cls members nor a field {' or '.join(FIELDS)} in JSON, "
            f"but {has}: name the field of the class number with label=json:FIELD."
        )
    return f"json:{label}"
