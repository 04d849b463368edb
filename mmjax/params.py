"""What each parameter is: the one table that optimizers, freezing and sharding all read.

The shape cannot tell (stacking over layers makes every bias two-dimensional), the path can.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Path pattern → role, the first match counts. New parameters need a line here.
_ROLES = (
    (r"(^|/)norm\w*/(scale|bias)$", "norm"),
    (r"(^|/)norm\w*/(mean|var)$", "statistic"),
    (r"/bias$", "bias"),
    (r"/kernel$", "matrix"),
    (r"/token_embed/embedding$", "embedding"),
    (r"/(class_embed|type_embed|bottleneck_embed|mask_embed|query_embed|probe)$", "token"),
    (r"/position_embed$", "position"),
    (r"^logit_(scale|bias)$", "scale"),
)


class Role(NamedTuple):
    """One parameter: its `path` ("image/blocks/mlp/fc1/kernel"), `kind` (matrix, embedding, token,
    position, norm, statistic, bias, scale) and whether a layer axis leads (`stacked`)."""

    path: str
    kind: str
    stacked: bool


def path_string(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def role(path: str) -> Role:
    """The role of the parameter at `path`; KeyError names a path that the table does not know."""
    for pattern, kind in _ROLES:
        if re.search(pattern, path):
            return Role(path, kind, "/blocks/" in path)
    raise KeyError(f"no role for parameter {path!r}: add a line to mmjax/params.py")


def map_roles(fn: Callable[[Role, Any], Any], params: Any) -> Any:
    """Maps `fn(role, leaf)` over a tree of parameters (or of their shapes, or a masked part)."""
    return jax.tree_util.tree_map_with_path(lambda p, leaf: fn(role(path_string(p)), leaf), params)
