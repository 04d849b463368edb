"""XCLIPModel against transformers: videos, texts as each video has them, logits and gradients."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from pytorch import F, torch, transformers

import mmjax
from mmjax import inference, models
from mmjax import params as roles
from mmjax.data import Record, train_tokenizer
from mmjax.data.modalities import Frames
from mmjax.data.tokenize import load_tokenizer
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.interop.huggingface import xclip
from mmjax.interop.table import their_shapes
from mmjax.models.parts import check_model
from mmjax.parallel.mesh import make_mesh
from mmjax.params import path_string

SIZE, LENGTH, VOCAB = 16, 12, 64
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
MIT = {
    "mit_hidden_size": 24, "mit_intermediate_size": 40, "mit_num_hidden_layers": 2,
    "mit_num_attention_heads": 2,
}  # fmt: skip
TEXTS = ["a red cat on a mat", "two dogs", "the moon over a dark sea at night"]
OF = ("video", "text")


def make(frames=3, seed=0, vocab=VOCAB, **changes):
    """A small XCLIPModel of transformers, every parameter away from zero and one."""
    config = transformers.XCLIPConfig(
        vision_config={**TOWER, **MIT, "image_size": SIZE, "patch_size": 4, "num_frames": frames},
        text_config={**TOWER, "vocab_size": vocab, "max_position_embeddings": LENGTH},
        projection_dim=24, prompt_num_attention_heads=2, **changes,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.XCLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(float(np.log(50.0)))
    return model


def read(folder):
    weights = registry.open_weights(folder)
    return weights.config, weights.read(shapes(weights.config.model))


def inputs(frames, videos, texts, seed=1):
    rng = np.random.default_rng(seed)
    lengths = np.linspace(3, LENGTH, texts).astype(int)
    text = np.zeros((texts, LENGTH), np.int32)
    for row, n in zip(text, lengths, strict=True):
        row[:n] = [1, *rng.integers(3, VOCAB - 1, n - 2), VOCAB - 1]
    return {
        "video": rng.integers(0, 256, (videos, frames, SIZE, SIZE, 3), dtype=np.uint8),
        "text": text,
        "text_mask": np.arange(LENGTH) < lengths[:, None],
    }


def theirs(model, batch, image):
    pixels = (batch["video"] / 255 - np.array(image.mean)) / np.array(image.std)
    return model(
        pixel_values=torch.tensor(pixels.transpose(0, 1, 4, 2, 3)).float(),
        input_ids=torch.tensor(batch["text"]).long(),
        attention_mask=torch.tensor(batch["text_mask"]).long(),
    )


def ours(model, params, batch):
    """(embeddings of videos, of all texts as each video has them, logits [videos, texts])."""
    one = {"params": params}
    seen = model.apply(one, batch, ("video/embed", "video/patches", "text/features", "logit/scale"))
    texts = seen["text/features"]
    pairs = {
        "video/patches": seen["video/patches"],
        "text/features": jnp.broadcast_to(texts, (len(seen["video/embed"]), *texts.shape)),
    }
    embed = model.apply(one, pairs, ("prompts/conditioned",))["prompts/conditioned"]
    logits = seen["logit/scale"] * jnp.einsum("bd,bkd->bk", seen["video/embed"], embed)
    return seen["video/embed"], embed, logits


def quick(function, config):
    """`function` of the model, compiled once: layers in a loop."""
    model = config.model.copy_and_resolve_references()
    model.video.unroll = model.text.unroll = False
    function = functools.partial(function, models.from_config(model))
    return jax.jit(function, compiler_options=tiny.QUICK)


@pytest.mark.parametrize(("frames", "videos", "texts"), [(1, 3, 2), (4, 2, 3)])
def test_in_and_out_again(tmp_path, frames, videos, texts):
    peer = make(frames)
    peer.save_pretrained(tmp_path / "in")
    config, params = read(tmp_path / "in")
    check_model(config.model)
    batch = inputs(frames, videos, texts)
    with torch.inference_mode():
        expected = theirs(peer, batch, config.model.video)
    video, text, logits = quick(ours, config)(params, batch)
    np.testing.assert_allclose(video, expected.video_embeds, atol=1e-5, rtol=0)
    np.testing.assert_allclose(text, expected.text_embeds, atol=1e-5, rtol=0)
    np.testing.assert_allclose(logits, expected.logits_per_video, atol=3e-6 * 50, rtol=0)
    # It means something only if a text is another for another video.
    assert np.abs(text[0] - text[1]).max() > 0.01
    assert np.abs(video[0] - video[1]).max() > 0.01

    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    before, after = (
        safetensors.numpy.load_file(tmp_path / side / "model.safetensors") for side in ("in", "out")
    )
    assert set(after) == set(before)
    for key, array in before.items():
        assert after[key].dtype == array.dtype
        np.testing.assert_array_equal(after[key], array, err_msg=key)
    again, report = transformers.XCLIPModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.inference_mode():
        found = theirs(again.eval(), batch, config.model.video).logits_per_video
    torch.testing.assert_close(found, expected.logits_per_video, atol=0, rtol=0)


def test_names_and_shapes_at_the_published_size():
    """xclip-base-patch32 is XCLIPConfig's defaults."""
    settings = transformers.XCLIPConfig()
    with torch.device("meta"):
        state = transformers.XCLIPModel(settings).state_dict()
    model = xclip.read_config(settings.to_dict(), {})
    found = their_shapes(xclip.rows(model), shapes(model))
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert {name: leaf.shape for name, leaf in found.items()} == expected
    assert sum(np.prod(shape) for shape in expected.values()) == 196_585_729


def test_every_number_of_the_config_is_read(tmp_path):
    """Each part has its own activation and epsilons."""
    peer = make(2, prompt_layers=1, prompt_hidden_act="quick_gelu", prompt_alpha=0.3)
    settings = peer.config.to_dict()
    settings["vision_config"] |= {"hidden_act": "gelu", "layer_norm_eps": 1e-3}
    settings["text_config"] |= {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2}
    peer = transformers.XCLIPModel(transformers.XCLIPConfig.from_dict(settings)).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    peer.save_pretrained(tmp_path)
    config, params = read(tmp_path)
    batch = inputs(2, 2, 3)
    with torch.inference_mode():
        expected = theirs(peer, batch, config.model.video)
    _, text, logits = quick(ours, config)(params, batch)
    np.testing.assert_allclose(text, expected.text_embeds, atol=1e-5, rtol=0)
    np.testing.assert_allclose(logits, expected.logits_per_video, atol=1e-4, rtol=0)


def test_gradients_of_every_parameter_are_those_of_transformers(tmp_path):
    peer = make(3)
    peer.save_pretrained(tmp_path)
    config, params = read(tmp_path)
    batch = inputs(3, 4, 4)
    loss = F.cross_entropy(
        theirs(peer, batch, config.model.video).logits_per_video / 25, torch.arange(4)
    )
    loss.backward()
    state = {name: p.grad.numpy() for name, p in peer.named_parameters()}
    expected = xclip.MODEL.family.read(state, config.model)

    def gradients(model, params, batch):
        def ours_loss(params):
            logits = ours(model, params, batch)[2] / 25
            return -jnp.diagonal(jax.nn.log_softmax(logits)).mean()

        return jax.value_and_grad(ours_loss)(params)

    value, found = quick(gradients, config)(params, batch)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, theirs_), ours_ in zip(leaves, jax.tree.leaves(found), strict=True):
        name = path_string(path)
        largest = np.abs(theirs_).max()
        # A key's bias moves all scores of a query alike: its gradient is nothing but rounding.
        assert largest > 1e-5 or name.endswith("key/bias"), name
        np.testing.assert_allclose(ours_, theirs_, atol=max(1e-3 * largest, 1e-6), err_msg=name)


@functools.cache
def tokenizer():
    return train_tokenizer(TEXTS * 2, 560)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As transformers keeps it, with processor and tokenizer."""
    path = tmp_path_factory.mktemp("xclip")
    make(vocab=tokenizer().vocab_size).save_pretrained(path / "weights")
    config, params = read(path / "weights")
    config.data.resize = "squash"
    config.model.video.update(mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.25))
    registry.export(
        path / "whole", "huggingface", config=config, params=params, tokenizer=tokenizer()
    )
    return path / "whole"


@functools.cache
def clips():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8) for n in (3, 9, 3, 4)]


def shown_of(loaded):
    """The columns that the model reads of `clips`."""
    video = loaded.config.model.video
    read = Frames("video", video.size, video.frames, resize=loaded.config.data.resize)
    return read.batch([read.read(Record("", {"video": clip}), None) for clip in clips()])


def test_clips_and_texts_to_logits_as_in_transformers(folder):
    loaded = mmjax.load(folder)
    assert "videos of 3 frames" in repr(loaded)
    found = loaded.logits(videos=clips(), texts=TEXTS)
    processor = transformers.XCLIPProcessor.from_pretrained(folder)
    shown = shown_of(loaded)
    assert shown["video_mask"].all()
    np.testing.assert_array_equal(shown["video"][1], clips()[1][[1, 4, 7]])  # of segments
    batch = processor(
        text=TEXTS,
        videos=[list(clip) for clip in shown["video"]],
        return_tensors="pt",
        padding=True,
    )
    with torch.inference_mode():
        expected = transformers.XCLIPModel.from_pretrained(folder).eval()(**batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.logits_per_video, atol=1e-6 * 50, rtol=0)
    alone = loaded.logits(videos=clips()[1], texts=TEXTS[2])
    np.testing.assert_allclose(alone, found[1:2, 2:], atol=1e-4)
    assert "video/embed" in loaded.given  # videos have embeddings of their own


def test_on_a_mesh_of_eight(folder):
    expected = mmjax.load(folder).logits(videos=clips(), texts=TEXTS)
    with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        loaded = mmjax.load(folder)
        kernel = loaded.params["video"]["blocks"]["message"]["attention"]["query"]["kernel"]
        assert "tensor" in str(kernel.sharding.spec)
        found = loaded.logits(videos=clips(), texts=TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_cosines_of_classes_are_those_of_the_mean_of_their_texts(folder):
    loaded = mmjax.load(folder)
    features = loaded.outputs(("text/features",), texts=TEXTS * 2)["text/features"]
    features = (features + np.arange(6)[:, None]).reshape(3, 2, -1)  # 3 classes of 2 texts
    columns = shown_of(loaded) | {"label": np.arange(4)}
    model, params = loaded.model, loaded.params
    with inference.on_mesh(params) as params:
        size, rows = inference.global_batch(3)
        batches = inference.cut(columns, size, rows)
        found = inference.cosines(model, params, batches, features, size, OF)
    np.testing.assert_array_equal(found["label"], np.arange(4))

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def pairs(params, video):
        """Each video beside each of the six texts, a pair a row."""
        names = ("video/embed", "video/patches")
        seen = model.apply({"params": params}, {"video": video}, names)
        rows = {
            "video/patches": jnp.repeat(seen["video/patches"], 6, axis=0),
            "text/features": jnp.tile(features.reshape(6, -1), (4, 1)),
        }
        found = model.apply({"params": params}, rows, ("prompts/conditioned",))
        return seen["video/embed"], found["prompts/conditioned"]

    video, text = (np.asarray(x, np.float64) for x in pairs(loaded.params, columns["video"]))
    mean = text.reshape(4, 3, 2, -1).mean(axis=2)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    expected = np.einsum("vd,vkd->vk", video, mean)
    np.testing.assert_allclose(found["cosine"], expected, atol=2e-6)


def test_texts_alone_are_refused_where_they_would_be_wrong(folder):
    loaded = mmjax.load(folder)
    assert loaded.model.conditioned() == {"text/embed": "prompts/conditioned"}
    assert "text/embed" not in loaded.given
    said = r"gives no text/embed: it depends on the example that it is compared with"
    with pytest.raises(UserError, match=said + r" \(prompts/conditioned\): compare them by logits"):
        loaded.embed_texts(TEXTS)
    with pytest.raises(UserError, match="takes images, videos or audio beside texts: give one"):
        loaded.logits(texts=TEXTS)


@pytest.mark.parametrize(
    ("videos", "said"),
    [
        ([], "video is empty"),
        (["nowhere.mp4"], r"video\[0\], nowhere\.mp4, cannot be decoded \(No such file"),
        ([np.zeros((3, 4, 4, 3))], r"video\[0\] is float64 \[3, 4, 4, 3\]: give frames as uint8"),
        ([clips()[0], 3], r"video\[1\] is int, no video: give a file or frames"),
    ],
)
def test_a_video_that_is_none_is_said(folder, videos, said):
    with pytest.raises(UserError, match=said):
        mmjax.load(folder).logits(videos=videos, texts=TEXTS)


def test_what_the_config_says_wrongly_is_said(tmp_path):
    make().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for part, change, said in (
        ("vision_config", {"mit_hidden_size": 32}, "mit_hidden_size=32 is not projection_dim=24"),
        (None, {"prompt_hidden_act": "selu"}, "its activation 'selu' is unknown here"),
        ("vision_config", {"num_frames": 4}, r"mit\.position_embedding has shape \(1, 3, 24\)"),
    ):
        changed = json.loads(json.dumps(settings))
        (changed[part] if part else changed).update(change)
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=said):
            read(tmp_path)


def test_a_tokenizer_whose_end_is_not_its_last_id_is_refused(folder, tmp_path):
    """transformers pools an XCLIPModel's texts at their largest id, whatever its config says."""
    config, params = read(folder)
    words = train_tokenizer(TEXTS * 2, 540).wrapped
    words.add_tokens(["zebra"])
    words.save_pretrained(tmp_path / "words")
    with pytest.raises(UserError, match="pools them at their largest id: use a tokenizer whose"):
        registry.export(
            tmp_path / "out", "huggingface", config=config, params=params,
            tokenizer=load_tokenizer(tmp_path / "words"),
        )  # fmt: skip
    with pytest.raises(UserError, match="pools texts at their largest id"):
        registry.open_weights(folder).words(tmp_path / "words")


def test_another_format_says_what_it_cannot_hold(folder, tmp_path):
    config, params = read(folder)
    with pytest.raises(UserError, match="it has no part 'image'; it has the part 'prompts'"):
        registry.export(tmp_path / "out", "open_clip", config=config, params=params)


def test_every_parameter_is_known_to_the_table_of_roles(folder):
    config, _ = read(folder)
    found = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes(config.model)):
        role = roles.role(path_string(path))
        found[role.path] = (role.kind, role.at, role.split, role.heads)
    message, layer = "video/blocks/message", roles.LAYER
    assert found[f"{message}/attention/query/kernel"] == ("matrix", layer, 1, True)
    assert found[f"{message}/attention/out/kernel"] == ("matrix", layer, 2, True)
    assert found[f"{message}/fc/kernel"] == ("matrix", layer, 0, False)
    assert found[f"{message}/norm/scale"] == ("norm", layer, 0, False)
    assert found["prompts/blocks/cross/key/kernel"] == ("matrix", layer, 1, True)
    assert found["video/patch_embed/kernel"] == ("matrix", roles.INPUT, 0, False)
    assert found["video/patches_head/kernel"] == ("matrix", roles.HEAD, 0, False)
    assert found["video/norm_patches/bias"] == ("norm", roles.HEAD, 0, False)
    assert found["prompts/alpha"] == ("scale", roles.HEAD, 0, False)
