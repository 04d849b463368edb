"""The batch of a step is a function of (seed, step): of nothing else, whatever goes wrong."""

import logging
import pickle
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from pictures import encode, pair, picture, write_tar
from reading import reads, settings

from mmjax.data import open_source, train_batches
from mmjax.data.order import Order
from mmjax.errors import UserError

B, S, L = 6, 32, 12


def config(**data) -> ConfigDict:
    augment = {"crop_scale": (0.4, 1.0), "crop_ratio": (0.75, 1.33), "flip": 0.5, "rotate": 10.0}
    return settings(B, S, L, 3, **{"augment": augment, **data})


def take(count, sources, tokenizer, start=0, rows=None, batch=B, **data):
    rows = np.arange(batch) if rows is None else rows
    run = config(**data)
    run.batch_size = batch
    batches = train_batches(sources, run, reads(run, tokenizer), rows=rows, start_step=start)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_shapes_and_types(source, tokenizer):
    (batch,) = take(1, [source], tokenizer)
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (B, S, S, 3)),
        "text": ("int32", (B, L)),
        "text_mask": ("bool", (B, L)),
        "label": ("int32", (B,)),
        "group": ("int32", (B,)),
    }


def test_pictures_and_captions_belong_together(source, tokenizer):
    """Without augmentation each row is nearest to the picture whose number its caption tells."""
    (batch,) = take(1, [source], tokenizer, augment={})
    captions, _ = tokenizer.encode([f"picture number {n}" for n in range(21)], L)
    pictures = np.stack([picture(n, S, S) for n in range(21)]).astype(float)
    for image, text in zip(batch["image"], batch["text"], strict=True):
        (number,) = np.flatnonzero((captions == text).all(axis=1))
        assert np.argmin(np.abs(pictures - image).mean(axis=(1, 2, 3))) == number


def test_starting_late_is_skipping(source, tokenizer):
    whole = take(7, [source], tokenizer)
    assert_same(take(3, [source], tokenizer, start=4), whole[4:])


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(source, tokenizer, workers):
    batches = take(5, [source], tokenizer, start=1, workers=workers)
    assert_same(batches, take(5, [source], tokenizer, start=1))
    assert type(batches[0]["image"]) is np.ndarray, "memory that a worker shares went out"


def test_prefetch_changes_nothing(source, tokenizer):
    assert_same(take(4, [source], tokenizer, prefetch=8), take(4, [source], tokenizer, prefetch=1))


def test_hosts_together_load_the_batch(source, tokenizer):
    whole = take(4, [source], tokenizer)
    splits = [np.array([0, 1]), np.array([5, 2]), np.array([3]), np.array([4])]
    for rows in splits:
        part = take(4, [source], tokenizer, rows=rows)
        assert_same(part, [{k: v[rows] for k, v in batch.items()} for batch in whole])


@pytest.mark.parametrize("spec", [{}, {"run": 4}, {"run": 0}])
def test_any_number_of_hosts_sees_the_same_before_and_after_a_restart(source, tokenizer, spec):
    """1, 2, 4 and 8 hosts for three steps, then on another number of them for two more."""
    data = {"train": {"pairs": spec}, "augment": {}}
    whole = take(5, [source], tokenizer, batch=8, **data)
    for before, after in ((1, 8), (2, 1), (4, 2), (8, 4)):
        steps = [(before, 0, 3), (after, 3, 2)]
        for hosts, start, count in steps:
            for rows in np.split(np.arange(8), hosts):
                part = take(count, [source], tokenizer, start, rows, batch=8, prefetch=1, **data)
                expected = whole[start : start + count]
                assert_same(part, [{k: v[rows] for k, v in b.items()} for b in expected])


def test_epochs_differ_and_the_seed_counts(source, tokenizer):
    """21 records: in steps of 7 batches of 6 every record comes twice, augmented anew."""
    batches = take(7, [source], tokenizer)
    images = np.concatenate([b["image"] for b in batches])
    groups = np.concatenate([b["group"] for b in batches])
    assert all((groups == g).sum() == 2 for g in groups)
    assert len({image.tobytes() for image in images}) == 42
    other = config()
    other.seed = 4
    read = reads(other, tokenizer)
    (batch,) = islice(train_batches([source], other, read, rows=np.arange(B), start_step=0), 1)
    assert not np.array_equal(batch["group"], batches[0]["group"])


def test_captions_are_taken_by_their_weights(tmp_path, tokenizer):
    members = [m for n in range(30) for m in pair(n, "alt text", synthetic=["first", "second"])]
    write_tar(tmp_path / "0.tar", members)
    spec = {"path": str(tmp_path), "caption": "txt,json:synthetic", "caption_weights": (0.2, 0.8)}
    source = open_source(spec, "pairs")
    batches = take(100, [source], tokenizer, augment={})
    texts = np.concatenate([b["text"] for b in batches])
    kinds, _ = tokenizer.encode(["alt text", "first", "second"], L)
    counts = [(texts == kind).all(axis=1).mean() for kind in kinds]
    np.testing.assert_allclose(counts, [0.2, 0.4, 0.4], atol=0.06)  # 3 deviations of 600 draws


def test_a_mixture_follows_its_order(source, shards, tokenizer):
    other = open_source({"path": "generated:50"}, "shapes")
    train = {"pairs": {"weight": 2.0}, "shapes": {"weight": 1.0}}
    batches = take(5, [source, other], tokenizer, train=train)
    order = Order([21, 50], [2.0, 1.0], seed=3)
    expected = [order(p) for p in range(5 * B)]
    # Records without groups get the numbers -1, -2, … over all sources.
    numbers = [-1 - (21 * a.source + a.index) for a in expected]
    assert np.concatenate([b["group"] for b in batches]).tolist() == numbers


def test_labels_travel(source, tokenizer):
    (batch,) = take(1, [source], tokenizer)
    order = Order([21], [1.0], seed=3)
    assert batch["label"].tolist() == [order(p).index % 3 for p in range(B)]


def test_groups_of_the_data_are_kept(shards, tokenizer):
    source = open_source({"path": str(shards), "group": "group"}, "pairs")
    (batch,) = take(1, [source], tokenizer)
    order = Order([21], [1.0], seed=3)
    assert batch["group"].tolist() == [order(p).index // 2 for p in range(B)]


def test_several_captions_take_turns(tmp_path, tokenizer):
    write_tar(tmp_path / "0.tar", pair(0, tags=["picture", "number", "0"]))
    source = open_source({"path": str(tmp_path), "caption": "txt,json:tags"}, "pairs")
    texts = np.concatenate([b["text"] for b in take(20, [source], tokenizer)])
    known, _ = tokenizer.encode(source.captions(0), L)
    counts = [(texts == k).all(axis=1).sum() for k in known]
    assert sum(counts) == 120
    assert min(counts) > 15


def test_texts_are_trimmed_to_the_longest_of_the_batch(tmp_path, tokenizer):
    captions = ["picture", "picture number 1 2", "picture number 1 2 3 4 5 6 7 8 9 1 2 3 4"]
    for number, caption in enumerate(captions):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_tar(folder / "0.tar", pair(0, caption=caption))
        source = open_source({"path": str(folder)}, "pairs")
        (full,) = take(1, [source], tokenizer)
        (batch,) = take(1, [source], tokenizer, text_lengths=(4, 6, 8))
        length = (4, 6, L)[number]
        np.testing.assert_array_equal(batch["text"], full["text"][:, :length])
        assert not full["text_mask"][:, length:].any(), "a token was lost"
        # One host of several cannot know the others' captions.
        (part,) = take(1, [source], tokenizer, text_lengths=(4, 6, 8), rows=np.arange(3))
        assert part["text"].shape == (3, L)


@pytest.fixture
def damaged(tmp_path):
    """Ten pairs; the picture of number 4 is none, that of 5 is cut off."""
    members = []
    for n in range(10):
        image, *rest = pair(n)
        content = {4: b"no picture", 5: encode(picture(5), "JPEG")[:200]}.get(n, image[1])
        members += [(image[0], content), *rest]
    write_tar(tmp_path / "00007.tar", members)
    return open_source({"path": str(tmp_path)}, "pairs")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_has_a_substitute_and_is_named(damaged, tokenizer, caplog, workers):
    caplog.set_level(logging.WARNING)
    batches = take(5, [damaged], tokenizer, max_bad=1.0, workers=workers)
    order = Order([10], [1.0], seed=3)
    indices = [order(p).index for p in range(5 * B)]
    stands_in = {4: 6, 5: 6}  # the next that is whole
    expected = [-1 - stands_in.get(i, i) for i in indices]
    assert np.concatenate([b["group"] for b in batches]).tolist() == expected
    assert "00007.tar: 00004.png cannot be decoded" in caplog.text
    assert "00007.tar: 00005.png cannot be decoded" in caplog.text
    assert len(caplog.records) == 2, "a record is named once, not every epoch"


def test_too_many_bad_pictures_stop_the_run(damaged, tokenizer):
    """Two of ten are bad: at 1 % of the first 1,000 examples the eleventh one is too many."""
    run = config(max_bad=0.01)
    batches = train_batches([damaged], run, reads(run, tokenizer), rows=np.arange(B), start_step=0)
    with pytest.raises(UserError, match=r"11 of \d+ examples .* data\.max_bad=0\.01 allows"):
        for _ in islice(batches, 30):
            pass


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_pictures_is_an_error_at_once(tmp_path, tokenizer, workers):
    write_tar(
        tmp_path / "0.tar", [("a.jpg", b"no"), ("a.txt", b"a"), ("b.jpg", b"no"), ("b.txt", b"b")]
    )
    source = open_source({"path": str(tmp_path)}, "pairs")
    with pytest.raises(UserError, match=r"pairs: .*0\.tar: [ab]\.jpg cannot be decoded.* nor can"):
        take(1, [source], tokenizer, workers=workers)


def test_a_shard_that_shrinks_under_us_is_a_bad_record(tmp_path, tokenizer, caplog):
    write_tar(tmp_path / "0.tar", [m for n in range(4) for m in pair(n)])
    source = open_source({"path": str(tmp_path)}, "pairs")
    data = (tmp_path / "0.tar").read_bytes()
    with open(tmp_path / "0.tar", "r+b") as file:
        file.truncate(len(data) // 2)
    take(1, [source], tokenizer, max_bad=1.0)
    assert "0.tar: ends before byte" in caplog.text


def test_a_record_without_a_caption_has_a_substitute(tmp_path, tokenizer, caplog):
    members = [m for m in [*pair(0), *pair(1)] if m[0] != "00001.txt"]
    write_tar(tmp_path / "0.tar", members)
    source = open_source({"path": str(tmp_path), "label": "label"}, "pairs")
    (batch,) = take(1, [source], tokenizer, max_bad=1.0)
    assert set(batch["group"].tolist()) == {-1}
    assert "00001.png is without a caption" in caplog.text


SCRIPT = """
    import pickle
    import sys
    import numpy as np
    from mmjax import config as config_lib
    from mmjax.data import open_source, train_batches
    from mmjax.data.modalities import Image, Text

    if __name__ == "__main__":
        config = config_lib.default()
        config.batch_size, config.data.workers = 4, 1
        config.data.train.a = config_lib.entry("data.train")
        source = open_source(dict(path="generated:64"), "a")
        tokenizer = pickle.load(open(sys.argv[1], "rb"))
        read = [Image("image", 16), Text("text", 8, tokenizer)]
        batches = train_batches([source], config, read, rows=np.arange(4), start_step=0)
        next(batches)  # comes from here, while the workers start
        print(next(batches)["image"].shape)
        END
"""


def run_script(tmp_path, tokenizer, end):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT).replace("END", end))
    (tmp_path / "tokenizer").write_bytes(pickle.dumps(tokenizer))
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "tokenizer")]
    return subprocess.run(command, capture_output=True, timeout=300)


def test_an_interpreter_with_open_batches_ends(tmp_path, tokenizer):
    """Nobody closed them, and absl's flags were never parsed: no hang, no noise."""
    done = run_script(tmp_path, tokenizer, "sys.exit()")
    assert done.returncode == 0
    assert done.stdout == b"(4, 16, 16, 3)\n"
    assert b"Traceback" not in done.stderr
    assert b"leaked" not in done.stderr


def test_workers_end_with_a_run_that_is_killed(tmp_path, tokenizer):
    end = (
        "import multiprocessing, os; "
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    done = run_script(tmp_path, tokenizer, end)
    workers = [Path("/proc", pid) for pid in done.stdout.decode().splitlines()[1].split()]
    assert done.returncode == -9
    assert len(workers) == 1
    deadline = time.monotonic() + 20
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)
