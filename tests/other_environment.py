"""Variables of a process that is as different from this one as they make it."""

from __future__ import annotations

import os
import time

import torch


def other_environment() -> dict[str, str]:
    """Another hash seed, locale, time zone and number of threads; the rest is this process's."""
    return {
        **os.environ,
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads() + 2),
        "LC_ALL": "C",
        "TZ": "UTC" if time.timezone else "Asia/Kathmandu",
    }
