"""Packed rows: every text once and whole, the same on any number of hosts, misuse named."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from ml_collections import ConfigDict
from reading import reads, settings

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.data import open_source, packing, train_batches, train_order
from mmjax.errors import UserError

B, L, PACK = 20, 48, 3


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """200 lines of 1 to 9 numbers; each begins with its own."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    texts = [f"{n} " + "1 " * rng.integers(0, 9) for n in range(200)]
    path.write_text("\n".join(texts))
    return open_source({"path": str(path)}, "lines")


def config(pack=PACK, length=L) -> ConfigDict:
    result = settings(B, 0, length, 1, train={"lines": {}}, prefetch=1, pack=pack)
    del result.model.image, result.model.logit
    return result


def take(source, tokenizer, count=3, rows=None, start=0, counts=None, **changes):
    rows = np.arange(B) if rows is None else rows
    run = config(**changes)
    batches = train_batches(
        [source], run, reads(run, tokenizer), rows=rows, start_step=start, counts=counts
    )
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def texts_of(batch) -> Counter:
    """The texts in the rows, as tuples of tokens."""
    found: Counter = Counter()
    for row, segment in zip(batch["text"], batch["text_segment"], strict=True):
        numbers = segment[segment > 0]
        assert (np.diff(numbers) >= 0).all(), "a text is torn"
        assert (segment[len(numbers) :] == 0).all(), "padding is not at the end"
        for number in np.unique(numbers):
            found[tuple(row[segment == number].tolist())] += 1
    return found


def test_every_text_of_the_steps_is_there_once_and_whole(lines, tokenizer):
    counts: Counter = Counter()
    batches = take(lines, tokenizer, counts=counts)
    order = train_order([lines], config())
    assert counts["data/examples"] == 3 * B * PACK
    for step, batch in enumerate(batches):
        assert batch["text"].shape == batch["text_mask"].shape == (B, L)
        np.testing.assert_array_equal(batch["text_mask"], batch["text_segment"] > 0)
        places = [order(step * B * PACK + n).index for n in range(B * PACK)]
        ids, mask = tokenizer.encode([lines.captions(i)[0] for i in places], L)
        expected = Counter(tuple(row[m].tolist()) for row, m in zip(ids, mask, strict=True))
        found = texts_of(batch)
        assert not found - expected
        assert (expected - found).total() <= counts["data/left_out"]
    assert counts["data/left_out"] <= 3
    filled = np.mean([batch["text_mask"].mean() for batch in batches])
    ids, mask = tokenizer.encode([lines.captions(i)[0] for i in range(200)], L)
    assert filled > 2.5 * mask.mean(), "packed rows hold about three times as much"


def test_no_host_and_no_restart_changes_a_row(lines, tokenizer):
    whole = take(lines, tokenizer, 4)
    for rows in ([0, 1, 2], [7, 8], [19], [15, 16, 17, 18, 19, 3]):
        for start in (0, 2):
            part = take(lines, tokenizer, 2, np.array(rows), start)
            for mine, all_rows in zip(part, whole[start:], strict=False):
                for name, column in mine.items():
                    np.testing.assert_array_equal(column, all_rows[name][rows], err_msg=name)


def test_texts_without_room_are_counted_and_too_many_stop(lines, tokenizer):
    with pytest.raises(UserError, match=r"texts found no room in their rows: set data\.pack to"):
        take(lines, tokenizer, 60, pack=6)


def test_first_fit_by_hand():
    lengths = np.array([3, 5, 2, 4, 6, 1, 5])
    mask = np.arange(6) < lengths[:, None]
    text = (np.arange(7)[:, None] * 10 + np.arange(6)).astype(np.int32)
    packed = packing.pack(text, mask, rows=4, pad_id=99)
    # 6 | 5 1 | 5 | 4 2; the text of 3 finds no room.
    assert packed.left_out == 1
    assert packed.text.tolist() == [
        [40, 41, 42, 43, 44, 45],
        [10, 11, 12, 13, 14, 50],
        [60, 61, 62, 63, 64, 99],
        [20, 21, 30, 31, 32, 33],
    ]
    assert packed.text_segment.tolist()[3] == [1, 1, 2, 2, 2, 2]
    assert packed.text_segment.tolist()[2] == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"model.image": "vit"},
            r"is for models of texts alone, and config\.model has image, text",
        ),
        ({"data.text_lengths": (8,)}, r"set data\.text_lengths=\(\)"),
        ({"model.text.mask_padding": False}, "a tower that sees its padding"),
        ({"objectives.infonce.weight": 1.0}, "objectives.infonce, which reads one .* a row"),
    ],
)
def test_rows_of_several_texts_where_one_is_expected(changes, problem):
    run = config_lib.default()
    run.model = models.zoo.config("bert-base-uncased")
    run.objectives.mlm = config_lib.entry("objectives", of="text")
    run.data.pack = 4
    for path, value in changes.items():
        if path.startswith("objectives."):
            run.objectives[path.split(".")[1]] = config_lib.entry("objectives")
        elif path == "model.image":
            run.model.image = config_lib.entry("model", kind=value)
        else:
            run.update_from_flattened_dict({path: value})
    built = objectives.build(run.objectives, run.model)
    with pytest.raises(UserError, match=rf"config\.data\.pack=-?\d .*{problem}"):
        packing.check(run, built)
    assert config_lib.default().data.pack == 0
