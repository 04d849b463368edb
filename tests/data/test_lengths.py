"""Token lengths that are kept: hosts trim their texts alike, and lose none."""

import pickle
from itertools import islice

import numpy as np
import pytest
from etils import epath
from pictures import pair, write_tar
from reading import reads, settings

from mmjax.data import BadRecord, open_source, train_batches
from mmjax.data.lengths import count_tokens, keep_lengths, read_lengths
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.workdir import workdir_lengths

B, L = 8, 24


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """40 pairs of one to ten words; a few are long."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    words = [int(rng.integers(1, 3)) if n % 9 else 10 for n in range(40)]
    write_tar(folder / "0.tar", [m for n in range(40) for m in pair(n, "picture " * words[n])])
    return open_source({"path": str(folder)}, "pairs")


def take(source, tokenizer, rows, **more):
    config = settings(B, 16, L, text_lengths=(4, 8, 16), prefetch=1, max_bad=1.0)
    read = reads(config, tokenizer)
    batches = train_batches([source], config, read, rows=rows, start_step=0, **more)
    try:
        return list(islice(batches, 10))
    finally:
        batches.close()


def test_counts_are_the_tokenizers(pairs, tokenizer):
    expected = [tokenizer.encode(pairs.captions(n), L)[1].sum() for n in range(40)]
    assert count_tokens(pairs, tokenizer, L).tolist() == expected
    assert count_tokens(pairs, tokenizer, 6).tolist() == np.minimum(expected, 6).tolist()


def test_the_longest_caption_counts_and_what_cannot_be_read_is_long(tokenizer):
    class Several:
        name = "several"

        def __len__(self):
            return 3

        def captions(self, index):
            if index == 1:
                raise BadRecord("gone")
            return ("picture", "picture picture picture") if index else ()

    assert count_tokens(Several(), tokenizer, L).tolist() == [0, L, 5]


def test_hosts_trim_as_one_host_does(pairs, tokenizer, tmp_path):
    keep_lengths(tmp_path, pairs, tokenizer, L)
    lengths = pickle.loads(pickle.dumps(read_lengths(tmp_path, [pairs], L)))
    whole = take(pairs, tokenizer, np.arange(B))
    assert {batch["text"].shape[1] for batch in whole} >= {4, 16}
    for rows in np.split(np.arange(B), 4):
        part = take(pairs, tokenizer, rows, lengths=lengths)
        for mine, all_rows in zip(part, whole, strict=True):
            for name in ("text", "text_mask"):
                np.testing.assert_array_equal(mine[name], all_rows[name][rows])


def test_a_longer_text_that_stands_in_is_cut_at_its_end_token(tmp_path, tokenizer):
    members = [m for n in range(16) for m in pair(n, "picture " * (10 if n % 2 else 1))]
    members = [(k, b"bad" if k.endswith("png") and int(k[:5]) % 2 == 0 else v) for k, v in members]
    write_tar(tmp_path / "0.tar", members)
    source = open_source({"path": str(tmp_path)}, "pairs")
    short = [np.full(len(source), 3)]  # as if all had been short: then only those that stand in
    for batch in take(source, tokenizer, np.arange(2), lengths=short):
        assert batch["text"].shape == (2, 4)
        assert (batch["text"][:, -1] == tokenizer.eot_id).all()


def test_a_run_counts_once_and_only_where_it_helps(pairs, tokenizer, tmp_path, monkeypatch):
    config = settings(B, 32, L, text_lengths=(4, 8))
    folder = epath.Path(tmp_path)
    with monkeypatch.context() as alone:
        alone.setattr(mesh_lib, "local_rows", lambda size: np.arange(size))
        assert workdir_lengths(folder, config, [pairs], tokenizer) == ()
    monkeypatch.setattr(mesh_lib, "local_rows", lambda size: np.arange(size // 2))
    (found,) = workdir_lengths(folder, config, [pairs], tokenizer)
    assert [found[n] for n in range(40)] == count_tokens(pairs, tokenizer, L).tolist()
    (again,) = workdir_lengths(folder, config, [pairs], None)  # it needs no tokenizer any more
    assert again[7] == found[7]
    config.data.text_lengths = ()
    assert workdir_lengths(folder, config, [pairs], tokenizer) == ()
    with pytest.raises(UserError, match="the hosts do not see the same --workdir"):
        read_lengths(tmp_path / "elsewhere", [pairs], L)
