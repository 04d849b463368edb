"""`mmjax models`: the zoo as a table, and one architecture as a tree of parameters."""

import functools
import math

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.tree import Tree

from mmjax import models, terminal
from mmjax.models import zoo
from mmjax.models.flops import forward_flops
from mmjax.models.published import OPEN_CLIP, PUBLISHED
from mmjax.params import path_string, role


def run(name: str | None = None) -> None:
    """Prints the table of all architectures, or what the one called `name` is made of.

    Raises:
      UserError: there is no such architecture; the nearest is named.
    """
    console = terminal.console()
    if name is None:
        list_all(console)
    else:
        describe(console, name)


def list_all(console: Console) -> None:
    """A row an architecture, as it is counted; GFLOPs are of one image and one full text.

    The weights that fit stand below, a line each and never cut, so that a name can be copied.
    """
    print_row = functools.partial(console.print, soft_wrap=True)
    print_row(f"[bold]{_row('name', 'parameters', 'GFLOPs', 'image', 'context')}[/]")
    for name in zoo.list_models():
        config, quick = zoo.config(name), f"{name}-quickgelu"
        print_row(_row(name, f"{count(config):,}", gflops(config), *sizes(config)))
        for weights in PUBLISHED.get(name, ()):
            print_row(f"    {weights}")
        for weights in PUBLISHED.get(quick, ()):
            print_row(f"    {weights}  (as {quick})")
    print_row("\nmmjax.load takes these names from the hub, and OpenAI's own files (NAME.pt).")
    version, *counts = OPEN_CLIP.items()
    read = " and ".join(f"{some} of {every} {what}" for what, (some, every) in counts)
    print_row(f"Of open_clip {version[1]} it reads {read}.")


def _row(name: str, *numbers: str) -> str:
    widths = (15, 9, 7, 9)
    return f"{name:<24}" + "".join(f"{x:>{w}}" for x, w in zip(numbers, widths, strict=True))


def describe(console: Console, name: str) -> None:
    """Sizes of one architecture, the weights that fit it, and its parameters with their shapes."""
    config = zoo.config(name)
    reads = [images(config.image)] if "image" in config else []
    reads += [f"sounds of {config.audio.seconds:g} seconds"] if "audio" in config else []
    reads += [f"texts of {config.text.context_length} tokens"] if "text" in config else []
    console.print(
        f"[bold]{name}[/]: {count(config):,} parameters, {gflops(config)} GFLOPs "
        f"a pair; {', '.join(reads)}, embeddings of {config.embed_dim}."
    )
    for form in (name, f"{name}-quickgelu"):
        if form in PUBLISHED:
            as_form = "" if form == name else f" (as {form})"
            console.print(f"Published weights{as_form}: {', '.join(PUBLISHED[form])}.")
    tree = Tree(name)
    branches = {"": tree}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes(config)):
        parent = ""
        *groups, last = path_string(path).split("/")
        for group in groups:
            here = f"{parent}/{group}"
            if here not in branches:
                branches[here] = branches[parent].add(group)
            parent = here
        branches[parent].add(f"{last}  {list(leaf.shape) or 'scalar'}")
    console.print(tree)


def images(image: ConfigDict) -> str:
    """What a tower of images reads."""
    if "patches" in image:
        return f"images of up to {image.patches} patches of {image.patch_size} pixels"
    return f"images of {image.size} pixels"


@functools.cache
def _shapes(name: str):
    model = models.create(name)
    return jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))


def shapes(config: ConfigDict):
    """The parameters of a named architecture as shapes."""
    return _shapes(config.name)


def count(config: ConfigDict) -> int:
    """Parameters; the statistics of batch norms are none."""
    return sum(
        math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes(config))
        if role(path_string(path)).kind != "statistic"
    )


def gflops(config: ConfigDict) -> str:
    """Of one pair; models for tests have little."""
    found = forward_flops(config, shapes(config)) / 1e9
    return f"{found:.1f}" if found >= 1 else f"{found:.4f}"


def sizes(config: ConfigDict) -> tuple[str, str]:
    """Side of the image (of one of any shape, its patches) and length of the text; "–" for a tower
    that is not there."""
    image = str(config.image.get("patches", config.image.size)) if "image" in config else "–"
    context = str(config.text.context_length) if "text" in config else "–"
    return image, context
