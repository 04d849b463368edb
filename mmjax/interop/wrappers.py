"""Weights as trainers wrap them: in a checkpoint beside an optimizer, and under names that begin
with those of the wrappers (data-parallel, compiled, sharded, averaged) that they were trained in.

What is taken off is said in a warning; two names that would become one are refused.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError

log = logging.getLogger("mmjax.interop")

# Where checkpoints keep the weights; averaged ones are taken where there are no others.
STATES = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network",
          "params", "weights")  # fmt: skip
AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "averaged_model")
# Wrappers name themselves anywhere in a name: "visual._orig_mod.conv1.weight".
WRAPPERS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module",
            "_checkpoint_wrapped_module")  # fmt: skip
# A trainer's attribute, which is no name of the model if all names begin with it.
OWNERS = ("model", "net", "network", *AVERAGED)
COUNTS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel, beside the weights


def state_of(content: Any, path: Path) -> Mapping[str, Any]:
    """The state dict in what `torch.load` gave: itself, or the one that a checkpoint names.

    Raises:
      UserError: it holds none, or several of which none is named as usual.
    """
    state, inside = content, list[str]()
    while isinstance(state, Mapping):
        known = [name for name in (*STATES, *AVERAGED) if _holds_tensors(state.get(name))]
        if not known:
            if any(map(_is_tensor, state.values())):
                break
            known = [name for name, value in state.items() if _is_state(value)]
            if len(known) > 1:
                raise UserError(
                    f"{path} holds several state dicts ({', '.join(map(repr, known))}): save the "
                    "one that is wanted in a file of its own."
                )
        if not known:
            there = ", ".join(map(repr, list(state)[:8])) or "nothing"
            raise UserError(f"{path} holds no state dict of weights: it holds {there}.")
        others = [name for name in known[1:] if name in AVERAGED]
        inside.append(known[0] + (f" (and leaves {others[0]!r})" if others else ""))
        state = state[known[0]]
    else:
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict of weights.")
    if inside:
        _say(f"{path}: takes the weights under {' → '.join(inside)}")
    return state


def unwrapped(tensors: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The tensors under the names that the model itself gives them.

    Raises:
      UserError: two tensors would have one name.
    """
    found: dict[str, str] = {}  # of the model → in the file
    dropped: dict[str, int] = {}
    for name in tensors:
        parts = name.split(".")
        kept = [part for part in parts if part not in WRAPPERS]
        for part in set(parts) - set(kept):
            dropped[part] = dropped.get(part, 0) + 1
        if name not in COUNTS:
            _add(found, ".".join(kept), name, path)
    while (owner := _owner(found)) is not None:
        dropped[owner] = len(found)
        found = {name.removeprefix(f"{owner}."): theirs for name, theirs in found.items()}
    if dropped:
        said = ", ".join(f"{name}. ({count} names)" for name, count in dropped.items())
        _say(f"{path}: names are read without what wrapped the model: {said}")
    return {name: tensors[theirs] for name, theirs in found.items()}


def _add(found: dict[str, str], name: str, theirs: str, path: Path) -> None:
    if name in found:
        raise UserError(
            f"{path} holds {found[name]} and {theirs}, which are one parameter in two wrappers: "
            "save the model that is wanted alone."
        )
    found[name] = theirs


def _owner(names: Mapping[str, str]) -> str | None:
    first = {name.partition(".")[0] for name in names}
    return first.pop() if len(first) == 1 and first <= set(OWNERS) else None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach")


def _is_state(value: Any) -> bool:
    """Whether it is a dict of names and tensors; an optimizer's has numbers for names."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and _is_tensor(x) for name, x in value.items()
    )


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        _is_state(value) or any(map(_holds_tensors, value.values()))
    )


@functools.cache  # a file is opened to see what it is, and again to be read
def _say(message: str) -> None:
    log.warning("%s", message)
