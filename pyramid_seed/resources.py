"""Where the files that come with the package are: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def configs_path() -> Path:
    """The folder of the presets, one YAML file each."""
    return _find("configs")


def embedded_model_path(name: str = "tiny") -> Path:
    """The folder of a model that comes with the package.

    Raises:
        FileNotFoundError: there is no model with that name.
    """
    names = sorted(path.name for path in _find("assets").iterdir() if path.is_dir())
    if name not in names:  # so "../elsewhere" is refused
        raise FileNotFoundError(f"no model named {name!r} comes with the package, only {', '.join(names)}")
    return _find(f"assets/{name}")


def embedded_name(folder: Path) -> str | None:
    """The name of the embedded model in a folder; None if there is none."""
    folder = folder.resolve()
    try:
        is_ours = embedded_model_path(folder.name).resolve() == folder
    except FileNotFoundError:
        return None
    return folder.name if is_ours else None


def resolve_model(model: str) -> str:
    """Turn `embedded:NAME` into the folder of that model; a folder or a hub id is unchanged."""
    name = model.removeprefix("embedded:")
    return model if name == model else str(embedded_model_path(name))


def _find(relative: str) -> Path:
    package = Path(__file__).resolve().parent
    candidates = (package / relative, package.parent / relative)
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " and ".join(map(str, candidates))
    raise FileNotFoundError(f"{relative} is not there: looked at {looked}; install pyramid-seed again")
