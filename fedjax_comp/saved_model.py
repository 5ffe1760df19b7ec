"""A trained model on disk: what it is as JSON, its parameters as safetensors.

Two files in a directory, with nothing executable in either: `architecture.json` says
which of the package's modules it is and with which settings, down to the ranks of a
factorized one, and holds a SHA-256 of itself and of the parameters. Every program that
knows safetensors reads `params.safetensors`: a leaf is named by its path, `a/b/kernel`.
Checkpoints, in contrast, hold the state of a run and need the code that made it.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.flax
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from fedjax_comp import models
from fedjax_comp.base import PyTree
from fedjax_comp.models import convolution
from fedjax_comp.models.factorized import Compact
from fedjax_comp.run_directory import Json, check_format, write_json
from fedjax_comp.wording import one_line

FORMAT = 2
ARCHITECTURE, PARAMETERS = "architecture.json", "params.safetensors"


def _modules() -> dict[str, type[nn.Module]]:
    """Every public flax module written below `models/`, by name."""
    found: dict[str, type[nn.Module]] = {}
    for info in pkgutil.iter_modules(models.__path__, f"{models.__name__}."):
        written_in = importlib.import_module(info.name)
        for name, made in vars(written_in).items():
            own = getattr(made, "__module__", None) == info.name
            if own and inspect.isclass(made) and issubclass(made, nn.Module):
                found[name] = made
    return {name: found[name] for name in sorted(found) if not name.startswith("_")}


MODULES: Mapping[str, type[nn.Module]] = _modules()
"""The modules that a file may name, found where they are written."""

FUNCTIONS = {
    name: made
    for name, made in inspect.getmembers(convolution, inspect.isfunction)
    if name.startswith("conv_") and made.__module__ == convolution.__name__
}
"""The ways of convolving that it may name: each `conv_...` of `models.convolution`."""


def describe(module: nn.Module) -> Json:
    """A module of the package as JSON.

    Raises:
      ValueError: for a module or a setting that is not the package's.

    >>> from fedjax_comp.models import mlp
    >>> describe(mlp(4)(2))["settings"]
    {'num_classes': 2, 'widths': [4], 'dropout': 0.0}
    """
    name = type(module).__name__
    if MODULES.get(name) is not type(module):
        raise ValueError(
            f"Expected a module of {', '.join(MODULES)}; got {name}, which no file "
            "could be read back as."
        )
    return {
        "module": name,
        "settings": {
            field.name: _to_json(getattr(module, field.name))
            for field in dataclasses.fields(module)
            if field.name not in ("parent", "name")
        },
    }


def build_module(description: Json) -> nn.Module:
    """The module that `describe` described.

    Raises:
      ValueError: when it is not of that form.

    >>> build_module({"module": "Linear", "settings": {"num_classes": 3}}).num_classes
    3
    """
    try:
        made = MODULES[description["module"]]
        settings = description["settings"]
        return made(**{name: _from_json(value) for name, value in settings.items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected the description of a module of {', '.join(MODULES)}; "
            f"got {json.dumps(description)[:200]}."
        ) from error


def save_model(
    directory: str | os.PathLike[str], module: nn.Module, params: PyTree
) -> None:
    """Writes a model into a directory, which is made when it does not exist.

    Args:
      directory: where; a model that lies there already is replaced.
      module: a module of the package, dense or factorized.
      params: its parameters.

    Raises:
      ValueError: as `describe`.

    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from fedjax_comp.models import linear
    >>> module, x = linear()(2), jnp.ones((1, 3))
    >>> params = module.init(jax.random.key(0), x)["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder), module, params)
    ...     model = load_model(Path(folder))
    >>> model.module == module, model.params["Dense_0"]["kernel"].shape
    (True, (3, 2))
    """
    directory = Path(directory)
    flat = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    data = safetensors.numpy.save({name: np.asarray(x) for name, x in flat.items()})
    architecture = {"format": FORMAT, **describe(module)}
    architecture["sha256"] = _sha256(architecture, data)
    directory.mkdir(parents=True, exist_ok=True)
    # The architecture is what says that a model is here, so it goes first and comes
    # last: a killed writer leaves no model rather than half of one.
    (directory / ARCHITECTURE).unlink(missing_ok=True)
    with (directory / PARAMETERS).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    write_json(directory / ARCHITECTURE, architecture)


def load_model(directory: str | os.PathLike[str]) -> Compact:
    """The model that `save_model` wrote.

    Returns:
      The module and its parameters: `module.apply({"params": params}, x)` runs it.

    Raises:
      ValueError: when there is none, it is of another format, or either file is no
        longer what was saved.
    """
    directory = Path(directory)
    try:
        text = (directory / ARCHITECTURE).read_bytes()
        data = (directory / PARAMETERS).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(
            f"Expected a model in {directory}: {Path(error.filename).name} is missing."
        ) from error
    architecture = _parse(directory / ARCHITECTURE, text)
    check_format(
        directory / ARCHITECTURE,
        architecture.get("format"),
        FORMAT,
        way_out="save the model again",
    )
    expected = architecture.pop("sha256", None)
    if _sha256(architecture, data) != expected:
        raise ValueError(
            f"Expected the model in {directory} as it was saved, got files of another "
            "SHA-256: save the model again."
        )
    # From the file: from bytes it knows no bfloat16. By reading: what is mapped into
    # memory would change with the file.
    try:
        flat = safetensors.flax.load_file(directory / PARAMETERS, backend="pread")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"Expected safetensors in {directory / PARAMETERS}: {one_line(error)}."
        ) from error
    params = traverse_util.unflatten_dict(flat, sep="/")
    return Compact(build_module(architecture), params)


def _parse(path: Path, text: bytes) -> Json:
    try:
        architecture = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}: {error}.") from error
    if not isinstance(architecture, dict):
        raise ValueError(f"Expected a JSON object in {path}.")
    return architecture


def _sha256(architecture: Json, data: bytes) -> str:
    """Over what the module is and its parameters."""
    told = json.dumps(architecture, sort_keys=True).encode()
    return hashlib.sha256(told + b"\n" + data).hexdigest()


def _to_json(value: Any) -> Any:
    match value:
        case nn.Module():
            return describe(value)
        case tuple():
            return [_to_json(one) for one in value]
        case None | bool() | int() | float() | str():
            return value
    name = getattr(value, "__name__", None)
    if name is None or FUNCTIONS.get(name) is not value:
        raise ValueError(
            f"Expected a setting of numbers, text or one of {', '.join(FUNCTIONS)}; "
            f"got {value!r}."
        )
    return {"function": name}


def _from_json(value: Any) -> Any:
    match value:
        case list():
            return tuple(_from_json(one) for one in value)
        case {"function": str(name)}:
            return FUNCTIONS[name]
        case {"module": _}:
            return build_module(value)
    return value
