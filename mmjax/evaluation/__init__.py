"""Evaluation: library functions on arrays, and evaluators made of them for a config's `evals`.

An evaluator is built once, with everything that can be wrong with its data found then, and called
with parameters as often as wanted. Counts and ranks do not depend on batch size, devices or hosts.
"""

from mmjax.evaluation.accuracy import accuracy
from mmjax.evaluation.command import evaluate
from mmjax.evaluation.knn import knn_scores
from mmjax.evaluation.ranks import ranks
from mmjax.evaluation.retrieval import dual_softmax, rank_metrics, retrieval_metrics
from mmjax.evaluation.spec import Subject
from mmjax.evaluation.tasks import KINDS, Evaluator, build, register
from mmjax.evaluation.zeroshot import classifier, prompts

__all__ = [
    "KINDS",
    "Evaluator",
    "Subject",
    "accuracy",
    "build",
    "classifier",
    "dual_softmax",
    "evaluate",
    "knn_scores",
    "prompts",
    "rank_metrics",
    "ranks",
    "register",
    "retrieval_metrics",
]
