"""WORKDIR/data.json: which records a run began with, wherever they lie today.

A run goes on with the same records only, since its order of examples is a function of them. So the
keys that say where they are (`SAME_RECORDS`: data.train.*.path, …) may change with a data set that
was moved, and data that changed in its place is found.
"""

import json
from collections.abc import Mapping, Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from mmjax.data import Source
from mmjax.data.identity import identity
from mmjax.data.sources import KEYS
from mmjax.errors import UserError
from mmjax.schema import SAME_RECORDS

FILE = "data.json"
_WHERE = [key.name for key in KEYS if SAME_RECORDS in key.marks]

Marks = Mapping[str, Mapping[str, int | str]]


def marks(names: Sequence[str], sources: Sequence[Source]) -> Marks:
    """The named sources of a run: how many records each has, and their fingerprint."""
    return {
        name: {"records": len(source), "fingerprint": identity(source)}
        for name, source in zip(names, sources, strict=True)
    }


def keep(workdir: epath.Path, found: Marks) -> None:
    """Writes the marks, on the first host."""
    if jax.process_index() == 0:
        temporary = workdir / f"{FILE}.tmp"
        temporary.write_text(json.dumps(found, indent=2) + "\n")
        temporary.replace(workdir / FILE)


def check(workdir: epath.Path, found: Marks, old: ConfigDict, new: ConfigDict) -> None:
    """UserError: the run in `workdir`, of the config `old`, began with other records than `found`
    for the config `new`, or nobody knows and they are said to be elsewhere."""
    path = workdir / FILE
    before: Marks = json.loads(path.read_text()) if path.exists() else {}
    for name, mark in found.items():
        was, now = old.data.train[name], new.data.train[name]
        moved = [key for key in _WHERE if was.get(key, now[key]) != now[key]]
        changes = ", ".join(f"{key}={was[key]!r}, not {now[key]!r}" for key in moved)
        began = before.get(name)
        if began is None and moved:
            raise UserError(
                f"{workdir} holds a run with config.data.train.{name}.{changes}, begun before "
                "fingerprints of data were kept: use that value to resume, or choose another "
                "--workdir to start over."
            )
        if began is not None and began != mark:
            raise UserError(
                f"{workdir} holds a run that began with other records in config.data.train.{name} "
                f"({began['records']:,} then, {mark['records']:,} now, fingerprint "
                f"{began['fingerprint']}, not {mark['fingerprint']})"
                + (f"; then it had {changes}" if moved else f", path={now.path}")
                + ": use those records to resume, or choose another --workdir to start over."
            )
