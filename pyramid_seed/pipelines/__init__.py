"""The diffusers pipelines and the samplers under them."""

from .beginning import Beginning
from .pipeline_helios import SeededHeliosPipeline, SeededHeliosPyramidPipeline
from .pipeline_output import PyramidFlowPipelineOutput
from .pipeline_pyramid_flow import PyramidFlowPipeline

__all__ = [
    "Beginning",
    "PyramidFlowPipeline",
    "PyramidFlowPipelineOutput",
    "SeededHeliosPipeline",
    "SeededHeliosPyramidPipeline",
]
