"""Which frames are taken of a video."""

import numpy as np
import pytest

from mmjax.data.sampling import sample_frames

EVEN = np.arange(100) / 25


def test_in_evaluation_the_middle_of_each_segment():
    np.testing.assert_array_equal(sample_frames(EVEN, 4), [12, 37, 62, 87])
    np.testing.assert_array_equal(sample_frames(EVEN[:7], 3), [0, 2, 5])  # of 2, 2 and 3 frames


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 31, 100])
@pytest.mark.parametrize("sampling", ["segments", "endpoints", "rate"])
def test_frames_are_ascending_and_each_once(frames, sampling):
    for seed in (None, 0, 1):
        rng = None if seed is None else np.random.default_rng(seed)
        found = sample_frames(EVEN[:frames], 8, rng, sampling=sampling, fps=25)
        assert len(found) == min(8, frames)
        assert (np.diff(found) > 0).all()
        assert found[0] >= 0
        assert found[-1] < frames


@pytest.mark.parametrize("frames", [8, 9, 31, 100])
def test_in_training_every_frame_can_be_drawn_the_last_one_too(frames):
    rng = np.random.default_rng(0)
    drawn = {int(n) for _ in range(1000) for n in sample_frames(EVEN[:frames], 8, rng)}
    assert drawn == set(range(frames))


def test_endpoints_are_the_first_and_the_last():
    np.testing.assert_array_equal(sample_frames(EVEN, 4, sampling="endpoints"), [0, 33, 66, 99])
    assert sample_frames(EVEN, 1, sampling="endpoints") == [0]


def test_a_rate_takes_what_is_shown_at_each_tick():
    """At 29.97 frames a second, those of each second; CLIP4Clip takes each 29th."""
    times = np.arange(300) * 1001 / 30_000
    found = sample_frames(times, 100, sampling="rate", fps=1)
    np.testing.assert_array_equal(found, [int(s * 30_000 / 1001) for s in range(10)])
    uneven = np.array([0, 0.1, 0.2, 2.5, 2.6])
    np.testing.assert_array_equal(sample_frames(uneven, 9, sampling="rate", fps=1), [0, 2])
    assert len(sample_frames(times, 4, sampling="rate", fps=1)) == 4
