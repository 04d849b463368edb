"""What is in a video: `mmjax video keyframes | summarize | search | benchmark`."""

from mmjax.video.benchmarking import benchmark
from mmjax.video.keyframing import keyframes
from mmjax.video.searching import search
from mmjax.video.summarizing import summarize

__all__ = ["benchmark", "keyframes", "search", "summarize"]
