"""preprocessor_config.json of ClapFeatureExtractor, or "feature_extractor" in processor_config.json
(transformers 5): the rate and length of sounds, and their spectrogram.

As with pictures, each field is honoured, says nothing of the numbers, or is refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.huggingface.preprocessor import find

_FILL = {"repeat": "repeatpad", "zeros": "pad"}
# Key of the audio tower → field, and the field's type.
_FIELDS = {
    "bins": ("feature_size", int),
    "sample_rate": ("sampling_rate", int),
    "seconds": ("max_length_s", float),
    "hop": ("hop_length", int),
    "window": ("fft_window_size", int),
    "low": ("frequency_min", float),
    "high": ("frequency_max", float),
}
_FIXED: dict[str, tuple[Any, Any]] = {  # field → (what a missing one says, what mmjax does)
    "padding_value": (0.0, 0.0),
    "return_attention_mask": (False, False),
    "top_db": (None, None),
    "truncation": ("fusion", "rand_trunc"),
    "feature_extractor_type": ("ClapFeatureExtractor", "ClapFeatureExtractor"),
}
_DEFAULTS = {
    "feature_size": 64, "sampling_rate": 48_000, "max_length_s": 10, "hop_length": 480,
    "fft_window_size": 1024, "frequency_min": 0, "frequency_max": 14_000, "padding": "repeatpad",
}  # fmt: skip
# They follow from others, or are names of classes and of arguments.
_SILENT = {
    "nb_frequency_bins", "nb_max_samples", "n_fft", "chunk_length_s", "padding_side",
    "processor_class", "auto_map", "return_tensors", "_processor_class",
}  # fmt: skip


def read(folder: Path, model: ConfigDict) -> dict[str, str]:
    """Puts what the file says into `config.model.audio`; without a file that stays as it is. No
    key of `config.data` comes of it: {}.

    Raises:
      UserError: sounds are prepared as nothing is here; all fields that are in the way are named.
    """
    file, found = find(folder, "feature_extractor")
    if found is None:
        return {}
    fill = found.get("padding", _DEFAULTS["padding"])
    unlike = {
        "padding": fill not in _FILL.values(),
        "feature_size": found.get("feature_size", 64) != model.audio.bins,
        **{key: found.get(key, said) != wanted for key, (said, wanted) in _FIXED.items()},
        **{key: True for key in found.keys() - _KNOWN if found[key] is not None},
    }
    refused = [f"{key}={found.get(key)!r}" for key, differs in unlike.items() if differs]
    if refused:
        raise UserError(
            f"{file}: mmjax does not prepare sounds so ({', '.join(refused)}): it cuts a longer "
            "sound (truncation='rand_trunc'), repeats a shorter one or adds silence (padding="
            f"'repeatpad' or 'pad'), and makes a log-mel spectrogram of {model.audio.bins} bins in "
            "dB."
        )
    model.audio.update(keys_of(found))
    return {}


_KNOWN = {field for field, _ in _FIELDS.values()} | {"padding"} | _FIXED.keys() | _SILENT


def keys_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a file as keys of the audio tower."""
    found = {**_DEFAULTS, **found}
    fills = {theirs: ours for ours, theirs in _FILL.items()}
    keys = {key: type_(found[field]) for key, (field, type_) in _FIELDS.items()}
    return keys | {"fill": fills[found["padding"]]}


def write(model: ConfigDict) -> dict[str, Any]:
    """preprocessor_config.json as `config.model.audio` says. It counts whole seconds."""
    audio = model.audio
    fields = {field: audio[key] for key, (field, _) in _FIELDS.items()}
    return {
        **fields,
        "max_length_s": int(audio.seconds),
        "nb_frequency_bins": audio.window // 2 + 1,
        "nb_max_samples": int(audio.seconds) * audio.sample_rate,
        "padding": _FILL[audio.fill],
        "padding_side": "right",
        **{field: wanted for field, (_, wanted) in _FIXED.items()},
        "processor_class": "ClapProcessor",
    }
