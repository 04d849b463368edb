"""Looking at data, cleaning it, and changing its format: `mmjax data inspect | dedup | convert`."""

from mmjax.datatools.conversion import convert
from mmjax.datatools.deduplication import dedup
from mmjax.datatools.inspection import inspect

__all__ = ["convert", "dedup", "inspect"]
