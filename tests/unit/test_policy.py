"""What a file without advice gets: the optimizer's answer for an unknown model."""

import time

from fusemount.policy import UNKNOWN
from optimizer import ServingOptimizer


def test_file_without_a_model_gets_what_the_optimizer_says_of_unknown_models() -> None:
    advice = ServingOptimizer(clock=time.monotonic).optimize_model_access("nobody", [])
    assert (
        UNKNOWN.model_id,
        UNKNOWN.strategy,
        UNKNOWN.first_window_bytes,
        UNKNOWN.priority,
        UNKNOWN.is_preloaded,
    ) == (
        advice.model_id,
        advice.cache_strategy,
        advice.prefetch_size,
        advice.priority,
        advice.should_preload,
    )


def test_unknown_file_keeps_nothing_and_says_why() -> None:
    assert not (UNKNOWN.keeps_read or UNKNOWN.keeps_prefetched or UNKNOWN.is_pinned)
    assert UNKNOWN.reasons
