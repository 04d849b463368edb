"""The kinds of sources that are the annotations of well-known sets of videos."""

from pathlib import Path

from ml_collections import ConfigDict

from mmjax.data.detect import check_contents, files_of
from mmjax.data.filters import Filter
from mmjax.data.howto100m import open_howto100m
from mmjax.data.kinetics import open_kinetics
from mmjax.data.msrvtt import open_msrvtt
from mmjax.data.paragraphs import open_activitynet, open_didemo
from mmjax.data.records import Source
from mmjax.data.sources import register
from mmjax.data.splits import Split
from mmjax.data.webvid import open_webvid
from mmjax.errors import UserError


@register("kinetics", keys="image split media")
def _kinetics(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_kinetics(_one(spec, name), spec.image, split, name)


@register("msrvtt", keys="image split media")
def _msrvtt(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_msrvtt(_one(spec, name), spec.image, split, name)


@register("activitynet", keys="image split media")
def _activitynet(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_activitynet(_files(spec, name), spec.image, split, name)


@register("didemo", keys="image split media")
def _didemo(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_didemo(_files(spec, name), spec.image, split, name)


@register("webvid", keys="image filter split media")
def _webvid(spec: ConfigDict, name: str, split: Split) -> Source:
    files = [Path(file) for file in split.files(list(map(str, _files(spec, name))))]
    return open_webvid(files, spec.image, Filter(spec.filter, name), name)


@register("howto100m", keys="image caption media bag min_seconds")
def _howto100m(spec: ConfigDict, name: str) -> Source:
    file = _one(spec, name)
    return open_howto100m(file, spec.caption, spec.image, spec.bag, spec.min_seconds, name)


def _files(spec: ConfigDict, name: str) -> list[Path]:
    """The annotations. UserError: something else than videos is asked for, or there are none."""
    if spec.media not in ("image", "video"):  # image is what nobody has set
        raise UserError(f"{name}: {spec.path} is of videos: media={spec.media!r} is not in it.")
    files = [Path(file) for file in files_of(spec.path, name)]
    for file in files:
        check_contents([file], "json" if file.suffix.lower() == ".json" else "csv", name)
    return files


def _one(spec: ConfigDict, name: str) -> Path:
    file, *others = _files(spec, name)
    if others:
        raise UserError(
            f"{name}: {spec.path} names {len(others) + 1} files, {file} and others: make each a "
            "source of its own."
        )
    return file
