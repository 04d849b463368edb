"""`mmjax models`: the zoo as a table, and one architecture as a tree of parameters."""

import functools
import math

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.tree import Tree

from mmjax import models
from mmjax.models import zoo
from mmjax.models.flops import forward_flops
from mmjax.models.published import PUBLISHED
from mmjax.models.roles import path_string


def run(name: str | None = None) -> None:
    """Prints the table of all architectures, or what the one called `name` is made of.

    Raises:
      UserError: there is no such architecture; the nearest is named.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe cuts no columns
    if name is None:
        list_all(console)
    else:
        describe(console, name)


def list_all(console: Console) -> None:
    """A row an architecture, as it is counted; GFLOPs are of one image and one full text."""
    table = Table("name", "parameters", "GFLOPs", "image", "context", "published weights", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    with Live(table, console=console, transient=False):
        for name in zoo.names():
            config = zoo.config(name)
            row = (f"{count(config):,}", f"{forward_flops(config) / 1e9:.1f}", *sizes(config))
            weights = [", ".join(PUBLISHED[name])] if name in PUBLISHED else []
            quick = f"{name}-quickgelu"
            weights += [f"{quick}: {', '.join(PUBLISHED[quick])}"] if quick in PUBLISHED else []
            table.add_row(name, *row, "\n".join(weights))


def describe(console: Console, name: str) -> None:
    """Sizes of one architecture, the weights that fit it, and its parameters with their shapes."""
    config = zoo.config(name)
    image, context = sizes(config)
    console.print(
        f"[bold]{name}[/]: {count(config):,} parameters, {forward_flops(config) / 1e9:.1f} GFLOPs "
        f"a pair; images of {image} pixels, texts of {context} tokens, embeddings of "
        f"{config.embed_dim}."
    )
    if name in PUBLISHED:
        console.print(f"Published weights: {', '.join(PUBLISHED[name])}.")
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


@functools.cache
def _shapes(name: str):
    model = models.create(name)
    return jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))


def shapes(config: ConfigDict):
    """The parameters of a named architecture as shapes."""
    return _shapes(config.name)


def count(config: ConfigDict) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(config)))


def sizes(config: ConfigDict) -> tuple[str, str]:
    """Side of the image and length of the text; "–" for a tower that is not there."""
    image = str(config.image.size) if "image" in config.towers else "–"
    context = str(config.text.context_length) if "text" in config.towers else "–"
    return image, context
