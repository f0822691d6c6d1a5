"""What `scripts/gpu_report.py` measures: one module a section, each with `measure(section, plan)`."""
