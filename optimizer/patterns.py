"""How models are served: the patterns, and which of them one request shows.

A model's own pattern is configured when it is registered; a request's pattern is only a sample in
its history.
"""

from enum import IntEnum

BATCH_SIZE_ABOVE = 32
"""A request of more items than this is a batch; as many are still realtime."""


class ServingPattern(IntEnum):
    """How a model is used; prints as the name by which configurations and metrics know it."""

    UNKNOWN = 0
    BATCH_INFERENCE = 1
    REALTIME_INFERENCE = 2
    STREAMING_INFERENCE = 3
    MULTI_MODAL_SERVING = 4
    ENSEMBLE_SERVING = 5
    A_B_SERVING = 6
    CANARY_SERVING = 7
    AUTO_SCALING_SERVING = 8

    def __str__(self) -> str:
        return _NAMES[self]

    def __format__(self, format_spec: str) -> str:
        # An IntEnum would otherwise print its number in an f-string and its name in str().
        return format(str(self), format_spec)


_NAMES = {
    ServingPattern.UNKNOWN: "Unknown",
    ServingPattern.BATCH_INFERENCE: "BatchInference",
    ServingPattern.REALTIME_INFERENCE: "RealtimeInference",
    ServingPattern.STREAMING_INFERENCE: "StreamingInference",
    ServingPattern.MULTI_MODAL_SERVING: "MultiModalServing",
    ServingPattern.ENSEMBLE_SERVING: "EnsembleServing",
    ServingPattern.A_B_SERVING: "A_BServing",
    ServingPattern.CANARY_SERVING: "CanaryServing",
    ServingPattern.AUTO_SCALING_SERVING: "AutoScalingServing",
}


def classify_request(batch_size: int) -> ServingPattern:
    """Say which pattern one request of `batch_size` items shows.

    The system that this follows (see `serving`) looks at the deadline as well, after the batch
    size: less than 100 ms away means realtime. But realtime is also what a request without a near
    deadline is, and a batch is a batch whatever its deadline. The deadline therefore decides
    nothing and is no argument here.
    """
    if batch_size > BATCH_SIZE_ABOVE:
        return ServingPattern.BATCH_INFERENCE
    return ServingPattern.REALTIME_INFERENCE
