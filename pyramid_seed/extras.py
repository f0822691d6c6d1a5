"""Libraries that an optional extra of the package installs."""

from __future__ import annotations

from importlib.util import find_spec


def check_extra(extra: str, *modules: str) -> None:
    """Raise ValueError, with the command that installs them, unless every top-level module is installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ValueError(
            f'this needs {", ".join(missing)}; pip install "pyramid-seed[{extra}]", '
            f'or in a checkout: pip install -c constraints.txt -e ".[{extra}]"'
        )
