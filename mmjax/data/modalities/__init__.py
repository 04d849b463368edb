"""Modalities: what turns fields of a record into columns of a batch, by kind.

A new one needs no edit here: subclass `Modality`, `register` it, and have a source yield records
with its field.
"""

from mmjax.data.modalities.audio import Audio
from mmjax.data.modalities.base import (
    Column,
    LoadTokenizer,
    Modality,
    build,
    medium,
    register,
)
from mmjax.data.modalities.captions import Captions
from mmjax.data.modalities.crops import Crops, GlobalCrop, LocalCrops
from mmjax.data.modalities.image import Image
from mmjax.data.modalities.naflex import Naflex
from mmjax.data.modalities.region_texts import RegionTexts
from mmjax.data.modalities.regions import Regions
from mmjax.data.modalities.tags import Tags
from mmjax.data.modalities.text import Text
from mmjax.data.modalities.video import Frames
from mmjax.data.modalities.views import Views

__all__ = [
    "Audio",
    "Captions",
    "Column",
    "Crops",
    "Frames",
    "GlobalCrop",
    "Image",
    "LoadTokenizer",
    "LocalCrops",
    "Modality",
    "Naflex",
    "RegionTexts",
    "Regions",
    "Tags",
    "Text",
    "Views",
    "build",
    "medium",
    "register",
]
