"""Makes the demo's data: one emoji in several drawing styles, each with its label and tags.

    python -m demo.prepare [FOLDER]        (default data/emoji)

fetches five pinned npm packages and writes tar shards as img2dataset would, one a style:
FOLDER/{google,fluent,openmoji,openmoji_black,twitter}/000000.tar, and beside them labels.txt (the
candidates of retrieval), groups.txt (the classes of zero-shot) and LICENSES.txt. What is there
already is kept. `twitter` is for evaluation: the demo never trains on it.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from demo.packages import fetch, read_members
from demo.shards import Pair, write_shard
from mmjax.errors import UserError

SIZE = 64  # pixels: what google and twitter are published at, and twice what the demo trains on
TEXT = "emojibase-data@17.0.0"


class Style(NamedTuple):
    """Where a style's pictures are in its package: `folder`/HEXCODE.`suffix`."""

    package: str
    folder: str
    suffix: str
    licence: str


STYLES = {
    "google": Style(
        "emoji-datasource-google@16.0.0", "img/google/64", "png",
        "pictures: Noto Emoji, Apache License 2.0, Google; package: MIT, Cal Henderson",
    ),
    "fluent": Style(
        "@lobehub/fluent-emoji-3d@1.1.0", "assets", "webp",
        "pictures: Fluent Emoji, MIT, Microsoft; package: MIT, LobeHub",
    ),
    "openmoji": Style(
        "openmoji@17.0.0", "color/svg", "svg", "pictures: CC BY-SA 4.0, openmoji.org"
    ),
    "openmoji_black": Style(
        "openmoji@17.0.0", "black/svg", "svg", "pictures: CC BY-SA 4.0, openmoji.org"
    ),
    "twitter": Style(
        "emoji-datasource-twitter@16.0.0", "img/twitter/64", "png",
        "pictures: Twemoji, CC BY 4.0, Twitter and contributors; package: MIT, Cal Henderson",
    ),
}  # fmt: skip


class Emoji(NamedTuple):
    """One emoji in words. `number` is the same in every style; `label` is a line of groups.txt."""

    hexcode: str
    name: str
    tags: tuple[str, ...]
    number: int
    label: int
    group: str
    subgroup: str


def prepare(
    folder: Path, progress: Callable[[str], None] = print, styles: Sequence[str] = tuple(STYLES)
) -> dict[str, int]:
    """Writes what is missing under `folder`; returns the number of pairs of each of the styles.

    Raises:
      UserError: a package can neither be found nor fetched, or it is not what was expected.
    """
    packages = folder / "packages"
    emoji, groups = read_emoji(fetch(TEXT, packages))
    _write(folder / "labels.txt", "".join(f"{e.name}\n" for e in emoji.values()))
    _write(folder / "groups.txt", "".join(f"{group}\n" for group in groups))
    _write(folder / "LICENSES.txt", licences())
    counts = {}
    for name in styles:
        style = STYLES[name]
        shard, stats = folder / name / "000000.tar", folder / name / "000000_stats.json"
        expected = {"package": style.package, "text": TEXT, "size": SIZE}
        if shard.exists() and stats.exists():
            found = json.loads(stats.read_text())
            if expected.items() <= found.items():
                counts[name] = found["successes"]
                continue
        progress(f"{name}: fetching {style.package}, writing {shard}")
        stats.unlink(missing_ok=True)  # it says that the shard beside it is finished
        counts[name] = write_shard(shard, pairs(fetch(style.package, packages), style, emoji))
        _write(stats, json.dumps({"successes": counts[name], **expected}) + "\n")
    return counts


def read_emoji(tarball: Path) -> tuple[dict[str, Emoji], list[str]]:
    """The emoji of emojibase-data by joined code, in Unicode's order, and the names of groups.

    Skin tones and the 26 regional indicators (which have no group) are left out.
    """
    files = read_members(tarball, lambda path: path in ("en/data.json", "en/messages.json"))
    if len(files) != 2:
        raise UserError(f"{tarball} holds no en/data.json or no en/messages.json.")
    messages = json.loads(files["en/messages.json"])
    groups = {entry["order"]: entry["message"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["message"] for entry in messages["subgroups"]}
    entries = [entry for entry in json.loads(files["en/data.json"]) if "group" in entry]
    entries.sort(key=lambda entry: entry["order"])
    labels = {group: label for label, group in enumerate(sorted(groups))}
    emoji = {
        join_code(entry["hexcode"]): Emoji(
            entry["hexcode"],
            entry["label"],
            tuple(entry.get("tags", ())),
            number,
            labels[entry["group"]],
            groups[entry["group"]],
            subgroups[entry["subgroup"]],
        )
        for number, entry in enumerate(entries)
    }
    return emoji, [groups[group] for group in sorted(groups)]


def join_code(hexcode: str) -> str:
    """The code that packages agree on: lower case, without the variation selector FE0F."""
    return hexcode.lower().replace("-fe0f", "")


def pairs(tarball: Path, style: Style, emoji: dict[str, Emoji]) -> Iterator[Pair]:
    """The pairs of a style in the order of `emoji`; a picture without words, or words without a
    picture, are left out."""
    pictures = read_members(
        tarball, lambda path: path.startswith(f"{style.folder}/") and path.endswith(style.suffix)
    )
    by_code = {join_code(Path(path).stem): path for path in pictures}
    if not by_code.keys() & emoji.keys():
        raise UserError(f"{tarball} holds no pictures of emoji in {style.folder}.")
    for code, words in emoji.items():
        if code in by_code:
            path = by_code[code]
            yield Pair(
                image=picture(pictures[path], style.suffix),
                suffix="png",
                width=SIZE,
                height=SIZE,
                caption=words.name,
                url=f"npm:{style.package}/{path}",
                fields={
                    "hexcode": words.hexcode,
                    "tags": list(words.tags),
                    "captions": captions(words),
                    "group": words.number,
                    "label": words.label,
                    "emoji_group": words.group,
                    "emoji_subgroup": words.subgroup,
                },
            )


def captions(words: Emoji) -> list[str]:
    """What training draws from: mostly the label, at times with its tags, or the category."""
    tagged = ", ".join((words.name, *words.tags))
    return [*(words.name,) * 6, tagged, f"{words.subgroup}, {words.group}"]


def picture(data: bytes, suffix: str) -> bytes:
    """A picture as a PNG of SIZE × SIZE pixels; transparency is kept."""
    if suffix == "svg":
        import resvg_py

        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=SIZE, height=SIZE))
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG" and image.size == (SIZE, SIZE):
        return data
    file = io.BytesIO()
    image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def licences() -> str:
    """What LICENSES.txt says: each package with the licence of what is used of it."""
    used = {style.package: style.licence for style in STYLES.values()}
    lines = [f"{TEXT}\n  labels, tags: MIT, Miles Johnson; labels from Unicode CLDR, Unicode-3.0"]
    lines += [f"{package}\n  {licence}" for package, licence in used.items()]
    return "Fetched from npm for this demo; nothing here is part of mmjax.\n\n" + (
        "\n".join(lines) + "\n"
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    try:
        print(prepare(Path(sys.argv[1] if len(sys.argv) > 1 else "data/emoji")))
    except UserError as error:
        sys.exit(str(error))
