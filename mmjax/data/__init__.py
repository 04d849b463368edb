"""Data: sources of records, their order, the modalities that read them, batches."""

# ruff: noqa: E402 - the first statement comes before the imports
import logging

# Where a program has set up no logging, importing Grain does, with a level and a logger's name
# before each message. This is earlier: messages alone.
logging.basicConfig(format="%(message)s")

from mmjax.data import kinds, video_kinds  # noqa: F401 - registers them
from mmjax.data.augment import Augment
from mmjax.data.images import eval_transform
from mmjax.data.in_memory import from_records
from mmjax.data.order import Address, Order
from mmjax.data.pipeline import train_batches, train_columns, train_order
from mmjax.data.records import BadRecord, Record, Source, Texts
from mmjax.data.sources import open_source, open_sources
from mmjax.data.tokenize import Tokenizer, load_tokenizer, train_tokenizer
from mmjax.data.walk import eval_batches

__all__ = [
    "Address",
    "Augment",
    "BadRecord",
    "Order",
    "Record",
    "Source",
    "Texts",
    "Tokenizer",
    "eval_batches",
    "eval_transform",
    "from_records",
    "load_tokenizer",
    "open_source",
    "open_sources",
    "train_batches",
    "train_columns",
    "train_order",
    "train_tokenizer",
]
