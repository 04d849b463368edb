"""Data: sources of image–text records, their order, decoding and augmentation, tokens, batches."""

from mmjax.data.augment import Augment, train_transform
from mmjax.data.images import eval_transform
from mmjax.data.order import Address, Order
from mmjax.data.pipeline import train_batches, train_order
from mmjax.data.records import BadRecord, Record, Source
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
    "Tokenizer",
    "eval_batches",
    "eval_transform",
    "load_tokenizer",
    "open_source",
    "open_sources",
    "train_batches",
    "train_order",
    "train_tokenizer",
    "train_transform",
]
