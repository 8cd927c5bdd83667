"""Decides how the files of served models should be read ahead, kept and preloaded.

Pure: no I/O, no threads, no clock of its own, no mount. Events in, recommendations out.
"""

from optimizer.events import AccessEvent, AccessKind, InferenceRequest, Origin
from optimizer.observation import ObservationCounts
from optimizer.optimizer import OPTIMIZATION_INTERVAL_S, OptimizationRound, ServingOptimizer
from optimizer.patterns import ServingPattern
from optimizer.serving import (
    AccessPatternSample,
    ErrorEvent,
    FileAccessOptimization,
    ModelAccessOptimization,
    ModelLoadBalancer,
    ModelServingInfo,
    PerformanceSample,
    ScalingEvent,
    ServingCacheStrategy,
    ServingHistory,
    ServingOptimizationRule,
    ServingOptimizerMetrics,
    ThroughputSample,
)

__all__ = [
    "OPTIMIZATION_INTERVAL_S",
    "AccessEvent",
    "AccessKind",
    "AccessPatternSample",
    "ErrorEvent",
    "FileAccessOptimization",
    "InferenceRequest",
    "ModelAccessOptimization",
    "ModelLoadBalancer",
    "ModelServingInfo",
    "ObservationCounts",
    "OptimizationRound",
    "Origin",
    "PerformanceSample",
    "ScalingEvent",
    "ServingCacheStrategy",
    "ServingHistory",
    "ServingOptimizationRule",
    "ServingOptimizer",
    "ServingOptimizerMetrics",
    "ServingPattern",
    "ThroughputSample",
]
