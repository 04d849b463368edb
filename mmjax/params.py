"""What each parameter is: the one table that optimizers, freezing, sharding and inheritance read.

The shape cannot tell (stacking over layers makes every bias two-dimensional), the path can.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

INPUT, LAYER, STAGE, TOKENS, HEAD = "input", "layer", "stage", "tokens", "head"
_STAGE = r"^([^/]+/stage\d+)(?:_block(\d+)|_merge)?/"  # its stage, and the number of the layer


class Role(NamedTuple):
    """One parameter.

    Attributes:
      path: as "image/blocks/mlp/fc1/kernel".
      kind: matrix, embedding, token, position, norm, statistic, bias or scale.
      at: where its part uses it: "input", before the layers; "layer", in a stack of these; "stage",
        in a layer of a stage that is by itself; "tokens", on what the layers give; "head", on what
        is taken from those.
      split: the axis, counted from the end, that holds heads or hidden units and that the mesh's
        `tensor` may split; 0: none.
      heads: whether `split` holds attention's heads.
    """

    path: str
    kind: str
    at: str
    split: int
    heads: bool

    @property
    def stacked(self) -> bool:
        """Whether a layer axis leads."""
        return self.at == LAYER

    @property
    def stack(self) -> str:
        """Of a parameter in a layer, what the layers beside it are called: "video", or "video/time"
        of those that come after them in the same part; or "image/stage2" of a stage, which come in
        the order of their numbers."""
        staged = re.match(_STAGE, self.path)
        return staged[1] if staged else self.path.split("/blocks/")[0]

    @property
    def layer(self) -> int:
        """Which layer of its stage a parameter is in that is not stacked; what comes before the
        layers, and makes the feature map smaller, counts as in the first."""
        staged = re.match(_STAGE, self.path)
        return int(staged[2] or 0) if staged else 0

    @property
    def part(self) -> str:
        """The part of the model that it is of."""
        return self.path.split("/")[0]


# Path pattern → kind; the first match counts. New parameters need a line here.
_KINDS = (
    (r"(^|/)norm\w*/(scale|bias)$", "norm"),
    (r"(^|/)norm\w*/(mean|var)$|/position_table$", "statistic"),
    (r"/bias$", "bias"),
    (r"/kernel$", "matrix"),
    (r"/token_embed/embedding$", "embedding"),
    (r"/(class|type|bottleneck|mask|query|register)_embed$|/probe$", "token"),
    (r"/(position_(embed|bias)|time_embed)$", "position"),
    (r"^\w+_(scale|bias|temperature)$|/(alpha|per_dim_scale|layer_scale\w*)$", "scale"),
)
# Path pattern → where it is used; else in the head.
_PLACES = (
    (r"/blocks/", LAYER),
    (_STAGE, STAGE),
    (r"^[^/]+/(patch|region|token|class|type|position|time|bottleneck|mask|register)_embed", INPUT),
    (r"^[^/]+/(stem|norm_(pre|embed|mel|patch)|image_proj)/", INPUT),
    (r"^[^/]+/norm_post/", TOKENS),
)
# Path pattern → (axis from the end, whether it holds heads).
_SPLITS = (
    (r"/(attention|cross|time)/(query|key|value)/(kernel|bias)$", (1, True)),
    (r"/(attention|cross|time)/out/kernel$", (2, True)),
    (r"/mlp/(fc1|gate)/(kernel|bias)$", (1, False)),
    (r"/mlp/fc2/kernel$", (2, False)),
)


def path_string(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def role(path: str) -> Role:
    """The role of the parameter at `path`; KeyError names a path that the table does not know."""
    kind = _first(_KINDS, path, None)
    if kind is None:
        raise KeyError(f"no role for parameter {path!r}: add a line to mmjax/params.py")
    split, heads = _first(_SPLITS, path, (0, False))
    return Role(path, kind, _first(_PLACES, path, HEAD), split, heads)


def _first(table: tuple[tuple[str, Any], ...], path: str, default: Any) -> Any:
    return next((value for pattern, value in table if re.search(pattern, path)), default)


def map_roles(fn: Callable[[Role, Any], Any], params: Any) -> Any:
    """Maps `fn(role, leaf)` over a tree of parameters (or of their shapes, or a masked part)."""
    return jax.tree_util.tree_map_with_path(lambda p, leaf: fn(role(path_string(p)), leaf), params)
