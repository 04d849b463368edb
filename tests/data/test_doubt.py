"""What is odd about training data is said: fewer examples than a batch, captions that are alike."""

import pytest
from pictures import encode, picture

from mmjax.data import open_source
from mmjax.data.doubt import doubts


@pytest.fixture
def source(tmp_path):
    def make(captions):
        rows = [f"{n}.png,{caption}" for n, caption in enumerate(captions)]
        for n in range(len(rows)):
            (tmp_path / f"{n}.png").write_bytes(encode(picture(n, 4, 4)))
        (tmp_path / "a.csv").write_text("\n".join(["image,caption", *rows]))
        return open_source({"path": str(tmp_path / "a.csv")}, "mine")

    return make


def test_fewer_examples_than_a_batch_are_said(source):
    one = source(["a", "b", "c"])
    assert not doubts([one], 3, True)
    assert not doubts([one, one], 6, False)
    (said,) = doubts([one], 4, True)
    assert said.startswith("config.batch_size=4: 3 examples are fewer than a batch, so each is")


@pytest.mark.parametrize(("alike", "said"), [(1, False), (3, False), (4, True), (20, True)])
def test_captions_that_are_alike_are_counted(source, alike, said):
    one = source(["a dog"] * alike + [f"thing {n}" for n in range(20 - alike)])
    found = doubts([one], 4, True)
    assert bool(found) == said
    if said:
        (line,) = found
        distinct = 21 - alike
        assert line.startswith(f"mine: 20 captions of 20 examples are {distinct} distinct ones;")
    assert not doubts([one], 4, False)
