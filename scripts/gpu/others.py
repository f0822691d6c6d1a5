"""`determinism` and `others`: benchmarks that stand as they are."""

from __future__ import annotations

from benchmarks import attention, determinism, noise

from .plan import Plan
from .report import Section


def measure_determinism(section: Section, plan: Plan) -> None:
    """What strict costs against relaxed."""
    section.how = "The same clip at both levels, in turn, after a warm-up of each."
    section.add_result(section.run("strict and relaxed", lambda: plan.benchmark(determinism.measure)))


def measure_others(section: Section, plan: Plan) -> None:
    """Attention of one layer, and the noise, which is made on the CPU."""
    section.how = "Attention of one layer and the making of noise, against their stated baselines."
    section.add_result(section.run("attention", lambda: plan.benchmark(attention.measure)))
    section.add_result(section.run("noise", lambda: plan.benchmark(noise.measure, repeats=1)))
