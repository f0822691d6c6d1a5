"""The Euler scheduler of pyramidal flow matching."""

from .scheduling_pyramid_flow_match import (
    PyramidFlowMatchEulerDiscreteScheduler,
    PyramidFlowMatchEulerDiscreteSchedulerOutput,
    RenoiseCoefficients,
)

__all__ = [
    "PyramidFlowMatchEulerDiscreteScheduler",
    "PyramidFlowMatchEulerDiscreteSchedulerOutput",
    "RenoiseCoefficients",
]
