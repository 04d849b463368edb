"""Which parts of a model an evaluator looks at: those that its config names, or all that fit."""

from collections.abc import Sequence

from mmjax.data import sources
from mmjax.errors import UserError
from mmjax.evaluation.spec import Subject
from mmjax.models import Graph
from mmjax.models.towers import PAIR
from mmjax.schema import find

TEXT = "text"  # the modality


def record_part(subject: Subject, asked: str, name: str) -> str:
    """The part that embeds records.

    Args:
      subject: the model.
      asked: its name; '' is the one that reads a medium other than text, or "image" among several.
      name: of the evaluator, for messages.

    Raises:
      UserError: no part of that name embeds what it reads, or several do.
    """
    found = embedding(subject.model)
    if asked:
        if asked not in found:
            raise UserError(
                f"evals.{name}.of: this model has no part {asked!r} that embeds what it reads: "
                f"choose one of {', '.join(found) or 'none'}."
            )
        return asked
    shown = [part for part, medium in found.items() if medium != TEXT]
    if PAIR[0] in shown or not shown:
        return PAIR[0]
    if len(shown) > 1:
        raise UserError(
            f"evals.{name}: the parts {', '.join(shown)} of this model embed records: say which "
            "by the key of."
        )
    return shown[0]


def pair(subject: Subject, asked: Sequence[str], name: str) -> tuple[str, str]:
    """The parts that embed records and texts; (): see `record_part`, and the one of texts.

    Raises:
      UserError: as of `record_part`.
    """
    if asked:
        if len(asked) != 2:
            raise UserError(
                f"evals.{name}.of={tuple(asked)!r} should name two parts: that which embeds the "
                "records, and that of the texts."
            )
        return record_part(subject, asked[0], name), asked[1]
    texts = [part for part, medium in embedding(subject.model).items() if medium == TEXT]
    if len(texts) > 1 and PAIR[1] not in texts:
        raise UserError(
            f"evals.{name}: the parts {', '.join(texts)} of this model embed texts: say which by "
            "the key of."
        )
    text = texts[0] if len(texts) == 1 else PAIR[1]
    return record_part(subject, "", name), text


def embedding(model: Graph) -> dict[str, str]:
    """Part → the kind of the modality that it reads, of the parts that embed what they read."""
    outputs = set(model.outputs())
    return {n: kind for n, (kind, _) in model.inputs().items() if f"{n}/embed" in outputs}


def media(model: Graph) -> str:
    """The value of the key `media` of data for a model: what it reads beside texts, or the key's
    default where that is not one medium."""
    key = find(sources.KEYS, "media")
    kinds = {kind for kind, _ in model.inputs().values()} - {TEXT}
    only = kinds.pop() if len(kinds) == 1 else ""
    return only if only in key.choices else key.default
