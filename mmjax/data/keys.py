"""The keys of `config.data` beside its sources and augmentation."""

import dataclasses
from typing import Annotated

from mmjax.data.images import MAX_PIXELS, eval_transform
from mmjax.data.sampling import sample_frames
from mmjax.data.videos import MAX_HOURS
from mmjax.schema import RESUMABLE, keys_of
from mmjax.values import ASCENDING, COUNT, COUNT_OR_0, POSITIVE, SHARE


@dataclasses.dataclass(frozen=True)
class Loading:
    """What is read, and how fast.

    Attributes:
      tokenizer: Local folder or hub name of a tokenizer; captions:N for a CLIP-style BPE of at most
        N tokens trained on the training captions, clip for OpenAI's where open_clip is installed
        (or the path of its .txt.gz), or init_from for that of the weights.
      text_lengths: Lengths that texts are trimmed to, e.g. (16, 32); (): full.
      pack: Texts that share a row on average, in a model of texts alone: each sees itself only, as
        in a row of its own, and batch_size counts rows; 0: one a row.
      image_lengths: Sequence lengths of an image tower of kind naflex, one for each batch, e.g.
        (128, 256, 576, 784, 1024); (): model.NAME.patches in all.
      length_shares: Share of the batches that each of image_lengths has; (): all the same.
      token_budget: Most image tokens in a batch, with image_lengths: a batch has token_budget /
        length examples, batch_size at most; 0: always batch_size.
      batch_multiple: token_budget: what batch sizes are rounded down to a multiple of, such as the
        number of devices.
      copies: Augmented copies of an example, repeated epoch after epoch, so that a teacher's
        embeddings of them can be cached; 0: a new one each epoch.
      workers: Worker processes that load data; 0: threads.
      prefetch: Batches loaded ahead (for each worker).
      max_pixels: Pixels above which an image, or a frame of a video, counts as unreadable.
      max_hours: Hours above which a sound, or a clip of a video, counts as unreadable.
      max_bad: Largest share of unreadable examples before the run stops.
    """

    tokenizer: str = "captions:4096"
    text_lengths: Annotated[tuple[int, ...], COUNT, ASCENDING] = ()
    pack: Annotated[int, COUNT_OR_0] = 0
    image_lengths: Annotated[tuple[int, ...], COUNT, ASCENDING] = ()
    length_shares: Annotated[tuple[float, ...], POSITIVE] = ()
    token_budget: Annotated[int, COUNT_OR_0] = 0
    batch_multiple: Annotated[int, COUNT] = 8
    copies: Annotated[int, COUNT_OR_0] = 0
    workers: Annotated[int, RESUMABLE, COUNT_OR_0] = 0
    prefetch: Annotated[int, RESUMABLE, COUNT] = 2
    max_pixels: Annotated[int, COUNT] = MAX_PIXELS
    max_hours: Annotated[float, POSITIVE] = MAX_HOURS
    max_bad: Annotated[float, RESUMABLE, SHARE] = 0.01


PREPROCESS = keys_of(eval_transform, skip=("image", "size"))
SAMPLING = keys_of(sample_frames, skip=("times", "count", "rng"))
KEYS = keys_of(Loading) + PREPROCESS + SAMPLING
