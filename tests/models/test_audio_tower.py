"""The audio tower: patches against PyTorch and transformers, and a run on sounds and texts."""

import numpy as np
import pytest
import pytorch
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.errors import UserError
from mmjax.models.parts import check_model, complete

SMALL = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 64, "unroll": False}
HEARD = {"seconds": 1.0, "bins": 32, "patch_size": 16, "patch_stride": 16}


def audio_text(**changes):
    """A tiny model of sounds and texts."""
    audio = {"kind": "audio_vit", **SMALL, **HEARD, "norm_pre": False, "pool": "mean", **changes}
    text = {"kind": "transformer", **SMALL, "vocab_size": 600, "context_length": 16}
    return complete({"embed_dim": 16, "audio": audio, "text": text, "logit": {"kind": "scale"}})


def patches_of(model, params, audio):
    """What the blocks of the part "audio" begin with."""
    _, state = models.from_config(model).apply(
        {"params": params}, {"audio": audio}, ("audio/embed",), mutable=["intermediates"],
        capture_intermediates=lambda _, method: method == "embed_patches",
    )  # fmt: skip
    return np.asarray(state["intermediates"]["audio"]["embed_patches"][0])


def random_params(model):
    return tiny.params(models.from_config(model))


@pytest.fixture
def audio():
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 0.5, (2, 16_000)).astype(np.float32)


@pytest.mark.parametrize("stride", [10, 16])
def test_patches_are_a_convolution_over_asts_features(audio, stride):
    """Also where they overlap, as AST's do."""
    model = audio_text(bins=128, patch_stride=stride, patch_bias=True)
    params = random_params(model)
    theirs = pytorch.transformers.ASTFeatureExtractor(max_length=98)
    features = np.stack(theirs(list(audio), sampling_rate=16_000)["input_values"])  # [2, 98, 128]
    torch = pytorch.torch
    kernel = torch.tensor(params["audio"]["patch_embed"]["kernel"]).permute(3, 2, 0, 1)
    bias = torch.tensor(params["audio"]["patch_embed"]["bias"])
    expected = torch.nn.functional.conv2d(
        torch.tensor(features, dtype=torch.float32)[:, None], kernel, bias, stride
    )
    expected = expected.flatten(2).transpose(1, 2)
    np.testing.assert_allclose(patches_of(model, params, audio), expected, atol=1e-4)
    count = {10: 9 * 12, 16: 6 * 8}[stride]
    assert params["audio"]["position_embed"].shape == (count, 32)


@pytest.mark.parametrize("changes", [{"position": "sincos"}, {"pool": "cls"}, {"pool": "map"}])
def test_forms_of_the_image_tower_work_on_sounds(audio, changes):
    """Embeddings have unit length, and tell a sound from another."""
    model = audio_text(spectrogram="log_mel", window=400, hop=160, **changes)
    outputs = ("audio/embed", "audio/tokens")
    found = models.from_config(model).apply(
        {"params": random_params(model)}, {"audio": audio}, outputs
    )
    embed = np.asarray(found["audio/embed"])
    np.testing.assert_allclose(np.linalg.norm(embed, axis=1), 1, rtol=1e-6)
    assert np.abs(embed[0] - embed[1]).max() > 1e-3
    first = int(changes.get("pool") == "cls")
    assert found["audio/tokens"].shape == (2, first + 6 * 2, 32)


def run():
    """Generated tones and what is said of them."""
    config = tiny.config(lr=3e-3)
    config.model, config.total_steps = audio_text(), 50
    of = ("audio", "text")
    config.objectives.clip = config_lib.entry("objectives", kind="clip", of=of)
    config.data.train.tones = config_lib.entry("data.train", path="generated:96", media="audio")
    config.data.tokenizer = "captions:600"
    config.evals.heard = config_lib.entry(
        "evals", kind="retrieval", path="generated:24", media="audio", candidates="captions", of=of
    )
    return config


def test_it_learns_what_is_said_of_sounds(tmp_path):
    _, found = tiny.trained(run(), tmp_path, stop_after=25)
    assert found["heard/audio_to_text/R@5"] > 0.75, found  # by chance 0.38


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight():
    one = tiny.loaded_step(run(), 1)
    assert np.linalg.norm(one[1]["audio"]["patch_embed"]["kernel"]) > 1e-6
    tiny.assert_same(tiny.loaded_step(run(), 8), one)


def test_it_is_planned():
    assert tiny.planned(run()).fits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"high": 9000.0}, r"audio\.high=9000 Hz is more than half of sample_rate=16000"),
        ({"seconds": 0.1}, r"seconds=0\.1 gives 8 frames, fewer than patch_size=16"),
        ({"bins": 8}, r"bins=8 is less than patch_size=16"),
        ({"heads": 5}, r"heads=5 does not divide width=32"),
        ({"pool": "queries", "pool_heads": 5}, r"pool_heads=5 must divide"),
        ({"spectrogram": "log_mel", "seconds": 0.02}, r"gives 0 frames"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes, said):
    with pytest.raises(UserError, match=said):
        check_model(audio_text(**changes))
