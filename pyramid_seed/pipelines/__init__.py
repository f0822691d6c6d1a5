"""The diffusers pipeline and the sampler under it."""

from .pipeline_output import PyramidFlowPipelineOutput
from .pipeline_pyramid_flow import PyramidFlowPipeline

__all__ = ["PyramidFlowPipeline", "PyramidFlowPipelineOutput"]
