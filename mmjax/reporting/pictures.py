"""Sample retrievals of a run: images or videos of its evaluation, and the texts found for them."""

import base64
import dataclasses
import io

import numpy as np

from mmjax.data import Record, open_source
from mmjax.data.images import open_image, to_rgb
from mmjax.data.videos import open_video
from mmjax.evaluation.embed import Embedder
from mmjax.evaluation.parts import pair
from mmjax.evaluation.spec import Subject, source_of
from mmjax.inference import on_mesh
from mmjax.runs.workdir import restore_for_inference
from mmjax.schema import kind_of

PICTURES, CANDIDATES, FOUND = 8, 512, 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image, or a frame of a video, as a data URL, and the nearest texts: (text, cosine, is it
    its own)."""

    image: str
    texts: list[tuple[str, float, bool]]


def retrievals(workdir: str) -> tuple[str, list[Sample]]:
    """The name of the run's first retrieval evaluator of images or videos, and samples of its data;
    none without one.

    The candidates are the captions of the first CANDIDATES records; shown are PICTURES of them,
    evenly spread.
    """
    config, model, params, tokenizer = restore_for_inference(workdir)
    specs = {n: spec for n, spec in config.evals.items() if kind_of(n, spec) == "retrieval"}
    specs = {name: spec for name, spec in specs.items() if spec.media in ("image", "video")}
    if not specs:
        return "", []
    name, spec = sorted(specs.items())[0]
    source = open_source(source_of(spec), name, unset="test")
    first = range(min(CANDIDATES, len(source)))
    texts = list(dict.fromkeys(caption for i in first for caption in source.captions(i)))
    # An image that cannot be read is no reason to have no page.
    subject = Subject.of(config, model, tokenizer)
    part, of_texts = pair(subject, spec.of, name)
    embedder = Embedder.of(spec, subject)
    embedder = dataclasses.replace(embedder, allow_skips=True)
    shown = np.unique(np.linspace(0, len(first) - 1, PICTURES).astype(int))
    with on_mesh(params) as params:
        found, _ = embedder.records(params, Rows(source, shown), part)
        text_embed = embedder.texts(params, embedder.tokenize(texts, of_texts), of_texts)
    samples = []
    cosines = found[f"{part}/embed"] @ text_embed.T
    for i, scores in zip(shown[found["index"]], cosines, strict=True):
        own = set(source.captions(int(i)))
        best = np.argsort(-scores, kind="stable")[:FOUND]
        lines = [(texts[j], float(scores[j]), texts[j] in own) for j in best]
        samples.append(Sample(_data_url(_picture(source[int(i)])), lines))
    return name, samples


class Rows:
    """Some records of a source, as a source."""

    def __init__(self, source, numbers):
        self._source, self._numbers = source, numbers
        self.name, self.skipped = source.name, {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int):
        return self._source[int(self._numbers[i])]

    def captions(self, i: int):
        return self._source.captions(int(self._numbers[i]))


def _picture(record: Record) -> bytes | np.ndarray:
    """The image of a record, or the middle frame of its video."""
    if "video" not in record.parts:
        return record.part("image")
    video = open_video(record.part("video"))
    return video.read([len(video.times) // 2])[0]


def _data_url(image: bytes | np.ndarray, side: int = 160) -> str:
    small = to_rgb(open_image(image))
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
