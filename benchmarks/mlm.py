"""Does the picture help to fill in the word? And how far do texts alone get?

    python benchmarks/mlm.py --seeds=2 --markdown            (needs the data of `make demo`)
    python benchmarks/mlm.py --lines=glosses.txt --markdown

The first trains masked-language models on the labels of emoji, three fifths of the words hidden,
with the picture (cross-attention) and without (two more text layers in its place), and takes the
loss of the hidden tokens beside pictures of the unseen style. The second trains on any file of one
text a line, of which every 20th is held out, and compares the loss with the entropy of the tokens'
frequencies. WordNet's glosses (Debian's wordnet-base) as such a file:

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    sed -n 's/.* | //p' wordnet/usr/share/wordnet/data.* > glosses.txt
"""

import argparse
import tempfile
from pathlib import Path

import emoji
import numpy as np
from tables import show

from mmjax import config as config_lib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lines", default="", help="a file of texts: the second table")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    if args.lines:
        of_lines(args)
    else:
        of_emoji(args)


def of_emoji(args) -> None:
    rows = []
    for name, of in (("with the picture", "fusion"), ("text alone", "text")):
        runs = [with_or_without(of, args.steps, args.batch, seed) for seed in range(args.seeds)]
        parameters, losses, accuracies = zip(*runs, strict=True)
        rows.append((name, f"{parameters[0]:,}", emoji.spread(list(losses), 3),
                     emoji.spread([100 * a for a in accuracies])))  # fmt: skip
    title = f"Hidden tokens of unseen-style captions, {args.steps} steps of {args.batch}"
    show(title, ("model", "parameters", "loss", "accuracy %"), rows, args.markdown)


def with_or_without(of: str, steps: int, batch: int, seed: int) -> tuple[int, float, float]:
    """(parameters, held-out loss, accuracy) of one run."""
    run = emoji.config(steps, batch, seed)
    run.model.image.depth = 3
    if of == "fusion":
        run.model.text.depth = 2
        run.model.fusion = config_lib.entry("model", kind="cross", depth=2)
    else:
        run.model.text.depth = 4
        del run.model.image, run.model.logit
    # Labels are short: of one hidden token the rest of its word would tell more than any picture.
    run.objectives.mlm = config_lib.entry("objectives", of=of, rate=0.6, whole_word=True)
    run.evals.unseen = config_lib.entry(
        "evals", kind="loss", path=str(emoji.FOLDER / emoji.UNSEEN), batch_size=batch
    )
    trained, logged = emoji.train(run)
    last = next(line for line in reversed(logged) if "unseen/loss/mlm" in line)
    return emoji.count(trained), last["unseen/loss/mlm"], last["unseen/mlm/accuracy"]


def of_lines(args) -> None:
    texts = [line.strip() for line in Path(args.lines).read_text("utf-8").splitlines()]
    texts = [text for text in texts if text]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        parts = {"train": [t for i, t in enumerate(texts) if i % 20],
                 "held": [t for i, t in enumerate(texts) if not i % 20]}  # fmt: skip
        for name, lines in parts.items():
            Path(folder, f"{name}.txt").write_text("\n".join(lines), "utf-8")
        for seed in range(args.seeds):
            rows.append(lines_row(folder, parts, args.steps, args.batch, seed))
    title = f"{len(texts):,} texts, {args.steps} steps of {args.batch}; nats a token, held out"
    show(title, ("seed", "unigram entropy", "loss", "below", "accuracy %"), rows, args.markdown)


def lines_row(folder: str, parts, steps: int, batch: int, seed: int) -> tuple[str, ...]:
    run = emoji.config(steps, batch, seed)
    del run.model.image, run.model.logit
    run.model.text.update(depth=4, width=192, heads=3, mlp_dim=768, vocab_size=4097)
    run.model.text.context_length = 32
    run.data.tokenizer = "captions:4096"
    path = {name: str(Path(folder, f"{name}.txt")) for name in parts}
    run.data.train = {"lines": config_lib.entry("data.train", path=path["train"])}
    run.evals.held = config_lib.entry("evals", kind="loss", path=path["held"], batch_size=batch)
    run.objectives.mlm = config_lib.entry("objectives", of="text")
    trained, logged = emoji.train(run)
    last = next(line for line in reversed(logged) if "held/loss/mlm" in line)
    entropy, loss = unigram_entropy(trained.tokenizer, parts), last["held/loss/mlm"]
    return (str(seed), f"{entropy:.3f}", f"{loss:.3f}", f"{entropy - loss:.3f}",
            f"{100 * last['held/mlm/accuracy']:.1f}")  # fmt: skip


def unigram_entropy(tokenizer, parts, length: int = 32) -> float:
    """Mean −log of the training frequency (one more for each token) of the held-out tokens."""

    def tokens(lines):
        ids, mask = tokenizer.encode(lines, length)
        inside = mask & ~np.isin(ids, [tokenizer.start_id, tokenizer.eot_id])
        return ids[inside]

    counts = 1 + np.bincount(tokens(parts["train"]), minlength=tokenizer.vocab_size)
    return float(-np.log(counts / counts.sum())[tokens(parts["held"])].mean())


if __name__ == "__main__":
    main()
