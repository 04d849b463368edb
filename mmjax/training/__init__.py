"""Training: what a run needs before its first step, and the loop."""

from mmjax.training.loop import train

__all__ = ["train"]
