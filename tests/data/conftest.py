"""Sources and a tokenizer that several tests of data share."""

import pytest
from pictures import write_shards

from mmjax.data import open_source, train_tokenizer


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Three tar shards of seven pairs each."""
    return write_shards(tmp_path_factory.mktemp("shards"), shards=3, pairs=7)


@pytest.fixture(scope="session")
def source(shards):
    return open_source({"path": str(shards), "label": "label"}, "pairs")


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([f"picture number {n}" for n in range(100)], 560)
