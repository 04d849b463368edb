"""Reading straight into the shards of a mesh: host memory never holds the weights twice."""

import ctypes
import gc
import json
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.interop.huggingface import vit
from mmjax.parallel.mesh import make_mesh
from mmjax.runs.workdir import inference_shapes


@pytest.fixture
def folder(tmp_path):
    """A ViTModel of 12 layers, 250 MB."""
    theirs = transformers.ViTConfig(hidden_size=640, num_attention_heads=10, intermediate_size=2560)
    settings = theirs.to_dict() | {"architectures": ["ViTModel"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    model = vit.read_config(settings, {"pooler.dense.weight": None})
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(model))
    state = vit.MODEL.family.write(zeros, model)
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    return tmp_path


def own_memory():
    """Bytes of this process's own: without the files that it maps, which cost no one anything."""
    (line,) = (x for x in Path("/proc/self/status").read_text().split("\n") if "RssAnon" in x)
    return int(line.split()[1]) * 1024


def test_one_parameter_at_a_time_is_in_host_memory(folder):
    weights, seen, done = registry.open_weights(folder), [], threading.Event()
    with jax.set_mesh(make_mesh(data=1, fsdp=8)):
        like = inference_shapes(weights.config.model)
        jax.block_until_ready(jax.device_put(np.zeros(8)))

        def watch():
            while not done.is_set():
                seen.append(own_memory())
                time.sleep(0.002)

        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what tests before this one freed is not for reuse here
        watcher, before = threading.Thread(target=watch), own_memory()
        watcher.start()
        params = jax.block_until_ready(weights.read(like))
        done.set()
        watcher.join()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert size > 200e6
    # The largest is an MLP's kernel of all layers, a third of the model; twice would be 2.
    assert 0.5 * size < max(seen) - before < 1.8 * size
