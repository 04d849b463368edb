"""CLAP of transformers: from the waveform, in, the same numbers and gradients, and out again."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from pytorch import torch, transformers
from test_tokenizers import byte_pairs

import mmjax
from mmjax import models
from mmjax.data import Record, modalities
from mmjax.data.sounds import Waveform
from mmjax.errors import UserError
from mmjax.interop import huggingface, registry
from mmjax.interop.formats import shapes

RATE, LENGTH = 8_000, 12
TEXTS = ["the sound of a cat", "a dog", "rain on a roof, and much wind after it all"]
TEXT = {
    "vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": LENGTH + 2,
}  # fmt: skip
AUDIO = {
    "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
    "patch_embeds_hidden_size": 16, "hidden_size": 32, "depths": [2, 2],
    "num_attention_heads": [2, 4],
}  # fmt: skip
EXTRACTOR = {
    "feature_size": 16, "sampling_rate": RATE, "hop_length": 80, "max_length_s": 1,
    "fft_window_size": 256, "frequency_min": 50, "frequency_max": 4000, "truncation": "rand_trunc",
}  # fmt: skip
FORMS = {
    "two stages": ({}, "repeatpad"),
    # The last stage is one window, which is not shifted.
    "three stages, another MLP": (
        {
            "depths": [1, 2, 2], "num_attention_heads": [2, 4, 8], "hidden_size": 64,
            "mlp_ratio": 1.5, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3,
        },
        "pad",
    ),
}  # fmt: skip


def make(seed=0, **audio):
    """A random model, its batch norm's statistics away from 0 and 1, with the scales apart."""
    torch.manual_seed(seed)
    config = transformers.ClapConfig(
        text_config=TEXT, audio_config=AUDIO | audio, projection_dim=24, logit_scale_init_value=20.0
    )
    model = transformers.ClapModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.normal_(-30, 5)
        norm.running_var.uniform_(100, 400)
        model.logit_scale_a.fill_(float(np.log(30.0)))
    return model


def processor(**changes):
    extractor = transformers.ClapFeatureExtractor(**EXTRACTOR | changes)
    return transformers.ClapProcessor(extractor, byte_pairs(None))


def save(folder, model, **changes):
    model.save_pretrained(folder)
    processor(**changes).save_pretrained(folder)
    return folder


def sounds():
    """Noise, a sweep, and clicks; the sweep fits twice into a second, the clicks once."""
    rng, t = np.random.default_rng(0), np.arange(RATE) / RATE
    noise = 0.2 * rng.standard_normal((3, RATE))
    noise[1] = 0.02 * noise[1] + 0.6 * np.sin(2 * np.pi * (100 + 1500 * t) * t)
    noise[2] *= t * 9 % 1 < 0.2
    noise = noise.astype(np.float32)
    return [noise[0], noise[1, :3_000], noise[2, :5_500]]


def read(folder):
    weights = registry.open_weights(folder)
    return weights.config, weights.read(shapes(weights.config.model)), weights.tokenizer()


def inputs_of(audio, **changes):
    """What the processor makes of texts and sounds."""
    both = processor(**changes)
    texts = both.tokenizer(
        TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    heard = both.feature_extractor(list(audio), sampling_rate=RATE, return_tensors="pt")
    return {**texts, "input_features": heard["input_features"].float()}


def batch_of(config, audio, tokenizer):
    """What mmjax makes of texts and sounds."""
    reader = modalities.build(models.inputs(config.model), tokenizer=lambda: tokenizer)["audio"]
    records = [Record("", {"audio": Waveform(sound, RATE)}) for sound in audio]
    ids, mask = tokenizer.encode(TEXTS, LENGTH)
    heard = reader.batch([reader.read(record, None) for record in records])
    return {**heard, "text": ids, "text_mask": mask}


@pytest.mark.parametrize("form", FORMS)
def test_in_and_out_again(tmp_path, form):
    changes, padding = FORMS[form]
    model = make(**changes)
    save(tmp_path / "in", model, padding=padding)
    clap, audio = mmjax.load(tmp_path / "in"), sounds()
    assert f"sounds of 1 seconds, texts of {LENGTH} tokens" in repr(clap)
    waves = [Waveform(sound, RATE) for sound in audio]
    found = {"audio": clap.embed_audio(waves), "text": clap.embed_texts(TEXTS)}
    inputs = inputs_of(audio, padding=padding)
    with torch.inference_mode():
        other = model(**inputs)
    for name, embeds in found.items():
        expected = other[f"{name}_embeds"].numpy()
        assert np.abs(expected[0] - expected[1]).max() > 0.01
        np.testing.assert_allclose(embeds, expected, atol=1e-5, rtol=0)
    logits, scales = clap.logits(audio=waves, texts=TEXTS), (30.0, 20.0)  # of sounds, of texts
    for theirs, ours, scale in (
        (other.logits_per_audio, logits, scales[0]),
        (other.logits_per_text, logits.T * np.exp(clap.params["logit_text_scale"]) / 30, scales[1]),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5 * scale, rtol=0)

    clap.export(tmp_path / "out", "huggingface")
    before, after = (
        safetensors.numpy.load_file(tmp_path / side / "model.safetensors") for side in ("in", "out")
    )
    assert set(after) == set(before)
    for key, array in before.items():
        assert after[key].dtype == array.dtype
        np.testing.assert_array_equal(after[key], array, err_msg=key)
    again, report = transformers.ClapModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    extractor = transformers.ClapProcessor.from_pretrained(tmp_path / "out").feature_extractor
    heard = extractor(list(audio), sampling_rate=RATE, return_tensors="pt")["input_features"]
    torch.testing.assert_close(heard.float(), inputs["input_features"], atol=0, rtol=0)
    with torch.inference_mode():
        embeds = again.eval()(**inputs).audio_embeds
    torch.testing.assert_close(embeds, other.audio_embeds, atol=0, rtol=0)


def test_gradients_are_those_of_pytorch(tmp_path):
    model = make()
    config, params, tokenizer = read(save(tmp_path, model))
    batch = batch_of(config, sounds(), tokenizer)
    weights = np.random.default_rng(3).standard_normal((2, 3, 24)).astype(np.float32)
    graph, names = models.from_config(config.model), ("audio/embed", "text/embed")

    def scalar(params):
        found = graph.apply({"params": params}, batch, names)
        return sum((w * found[name]).sum() for w, name in zip(weights, names, strict=True))

    grads = huggingface.architecture_for(config.model, None).family.write(
        jax.jit(jax.grad(scalar))(params), config.model
    )
    other = model(**inputs_of(sounds()))
    a, t = (torch.tensor(w) for w in weights)
    ((a * other.audio_embeds).sum() + (t * other.text_embeds).sum()).backward()
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and "logit_scale" not in name:
            expected = parameter.grad.numpy()
            if name.endswith("word_embeddings.weight"):
                continue  # PyTorch gives padding no gradient; here nobody looks at it
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                grads[name], expected, atol=2e-5 * scale + 1e-6, rtol=0, err_msg=name
            )
            compared += scale > 1e-4
    assert compared > 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_fusion": True}, "enable_fusion=True.*without feature fusion"),
        ({"patch_stride": [2, 2]}, r"patch_stride=\[2, 2\] beside patch_size=4"),
        ({"qkv_bias": False, "enable_patch_layer_norm": False}, "layer_norm=False, qkv_bias=False"),
        ({"hidden_act": "selu"}, "hidden_act='selu'"),
    ],
)
def test_other_audio_towers_are_refused_by_name(tmp_path, changes, message):
    save(tmp_path, make())
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["audio_config"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        registry.open_weights(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": "fusion"}, "truncation='fusion'"),
        ({"padding": "repeat"}, "padding='repeat'"),
        ({"top_db": 80}, "top_db=80"),
        ({"padding_value": 1.0, "feature_size": 8}, "feature_size=8, padding_value=1.0"),
        ({"dither": 0.1}, "dither=0.1"),
    ],
)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_other_preparation_of_sounds_is_refused_by_name(tmp_path, saved, file, changes, message):
    folder = copied(saved, tmp_path, file, changes)
    with pytest.raises(UserError, match=rf"{file}: mmjax does not prepare sounds so \({message}"):
        registry.open_weights(folder)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_the_preparation_of_sounds_is_read(tmp_path, saved, file):
    changes = {
        "padding": "pad", "sampling_rate": 16_000, "hop_length": 160, "frequency_min": 20.5,
        "max_length_s": 2, "fft_window_size": 512, "frequency_max": 7000,
    }  # fmt: skip
    audio = registry.open_weights(copied(saved, tmp_path, file, changes)).config.model.audio
    found = [audio[k] for k in ("fill", "sample_rate", "hop", "low", "seconds", "window", "high")]
    assert found == ["zeros", 16_000, 160, 20.5, 2.0, 512, 7000.0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("clap"), make())


def copied(saved, folder, file, changes):
    """The weights of `saved`, with changes in how sounds are prepared, which `file` says."""
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(saved / name)
    said = transformers.ClapFeatureExtractor(**EXTRACTOR).to_dict() | changes
    said = {"feature_extractor": said} if file.startswith("processor") else said
    (folder / file).write_text(json.dumps(said))
    return folder
