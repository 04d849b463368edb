"""Does choosing examples help where three captions in ten are wrong?

    python benchmarks/curation.py --markdown       (needs the data of `make demo`)

Emoji of three styles, of which 30 % have the caption of another. All students are alike and train
on as many examples, with the sigmoid loss: on those that come, or on the half of them that
config.data.curation chooses, jointly (JEST) or each alone. The teacher is a student of as many
steps on right captions of one style. R@1 is image → caption on a style that none has seen; "wrong"
is the share of wrong captions in the half of all records that the trained student would choose.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import emoji
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tables import show

import mmjax
from mmjax import config as config_lib
from mmjax import data
from mmjax.core.curation import Pairs, choose
from mmjax.data.images import open_image
from mmjax.pretrained import Pretrained
from mmjax.training import loop

WRONG, KEEP = 0.3, 0.5
ARMS: dict[str, dict[str, Any]] = {  # → keys of config.data.curation
    "all that come": {"keep": 1.0, "teacher": ""},
    "learnability, jointly": {},
    "learnability, each alone": {"chunks": 1},
    "easy": {"score": "easy"},
    "hard": {"score": "hard", "teacher": ""},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            source, one = f"{folder}/teacher", tuple(emoji.SEEN)[:1]
            run = student(args.steps, args.batch, seed, Captioned(one, 0.0, seed))
            teacher, seconds = trained(run, source)
            row = 100 * emoji.recall(teacher), math.nan, seconds / args.steps
            found.setdefault("right captions of one style: the teacher", []).append(row)
            for number, (name, keys) in enumerate(ARMS.items()):
                noisy = Captioned(tuple(emoji.SEEN), WRONG, seed)
                run = student(args.steps, args.batch, seed, noisy)
                run.data.curation.update({"keep": KEEP, "teacher": "teacher", **keys})
                if run.data.curation.teacher:
                    run.teachers.teacher = config_lib.entry("teachers", source=source)
                learner, seconds = trained(run, f"{folder}/{number}")
                wrong = chosen_wrong(learner, teacher, noisy, run)
                row = 100 * emoji.recall(learner), wrong, seconds / args.steps
                found.setdefault(name, []).append(row)
    rows = [(name, *(cell(v) for v in zip(*each, strict=True))) for name, each in found.items()]
    title = f"Unseen style, {args.steps} steps of {args.batch}, seeds {args.seeds}"
    header = ("trained on", "R@1 %", "wrong %", "seconds a step")
    show(title, header, rows, args.markdown)


def cell(values: tuple[float, ...]) -> str:
    """The mean of the seeds and their standard deviation; "" where there is none."""
    if np.isnan(values).any():
        return ""
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=len(values) > 1):.2g}"


class Captioned(Sequence[dict[str, Any]]):
    """The emoji of some styles, a share of them with the caption of another."""

    def __init__(self, styles: tuple[str, ...], wrong: float, seed: int):
        sources: list[Any] = [data.open_source({"path": str(emoji.FOLDER / s)}) for s in styles]
        records = [source[i] for source in sources for i in range(len(source))]
        self.images = [open_image(record.part("image")) for record in records]
        self.captions = [record.captions[0] for record in records]
        rng, self.wrong = np.random.default_rng(seed), np.zeros(len(records), bool)
        moved = rng.permutation(len(records))[: round(wrong * len(records))]
        self.wrong[moved] = True
        theirs = [self.captions[number] for number in np.roll(moved, 1)]
        for number, caption in zip(moved, theirs, strict=True):
            self.captions[number] = caption

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return {"image": self.images[index], "text": self.captions[index]}


def student(steps: int, batch: int, seed: int, records: Captioned) -> ConfigDict:
    """Towers of two layers and one, and a sigmoid loss."""
    result = emoji.config(steps, batch, seed)
    path = data.from_records(records, "emoji")
    result.data.train = ConfigDict({"emoji": config_lib.entry("data.train", path=path)})
    result.model.image.depth, result.model.text.depth = 2, 1
    result.model.text.mlm_head = False
    result.model.logit.update(initial=math.log(10), max=0.0, bias=-5.0)
    result.objectives.siglip = config_lib.entry("objectives")
    return result


def trained(run: ConfigDict, workdir: str) -> tuple[Pretrained, float]:
    """The model of a run, and the seconds that it took."""
    begun = time.perf_counter()
    loop.train(run, workdir)
    return mmjax.load(workdir), time.perf_counter() - begun


def chosen_wrong(learner: Pretrained, teacher: Pretrained, noisy: Captioned, run: Any) -> float:
    """In %, among what the learner would choose of all records, in super-batches of its run."""
    curation, order = run.data.curation, np.random.default_rng(0).permutation(len(noisy))
    size, wrong = round(run.batch_size / curation.keep), list[float]()
    if curation.keep == 1:
        return 100 * float(noisy.wrong.mean())
    models = [] if curation.score == "easy" else [seen(learner, noisy, 1.0)]
    models += [] if curation.score == "hard" else [seen(teacher, noisy, -1.0)]
    draw = jax.jit(choose, static_argnums=(2, 3))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        pairs = [each._replace(x=each.x[rows], y=each.y[rows]) for each in models]
        chosen, _ = draw(pairs, jax.random.key(start), run.batch_size, curation.chunks)
        wrong.append(float(noisy.wrong[rows[np.asarray(chosen)]].mean()))
    return 100 * float(np.mean(wrong))


def seen(model: Pretrained, noisy: Captioned, weight: float) -> Pairs:
    x, y = model.embed_images(noisy.images), model.embed_texts(noisy.captions)
    scale, bias = np.exp(model.params["logit_scale"]), model.params["logit_bias"]
    return Pairs(jnp.asarray(x), jnp.asarray(y), scale, bias, weight)


if __name__ == "__main__":
    main()
