"""Weights in and out: one name table a format, read in both directions."""

# The formats, in the order in which a source is tried: LAION's folders are open_clip's and Hugging
# Face's at once, and open_clip's config says more. Here, so that --help need not import them.
FORMAT_NAMES = ("openai", "open_clip", "huggingface", "big_vision")
