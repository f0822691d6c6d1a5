"""The diffusers pipeline and the sampler under it."""

from .beginning import Beginning
from .pipeline_output import PyramidFlowPipelineOutput
from .pipeline_pyramid_flow import PyramidFlowPipeline

__all__ = ["Beginning", "PyramidFlowPipeline", "PyramidFlowPipelineOutput"]
