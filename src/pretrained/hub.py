"""Models, tokenizers and settings of Hugging Face: local folders, or files of the hub in its cache."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from src.checks.registered_names import is_path
from src.config import Config
from src.errors import ConfigError, DataError, UserError
from src.io import download, files

T = TypeVar("T")

# files to download: never pickled weights, never code
_SETTINGS = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("*.safetensors",)


def path_of(config: Config, name: str) -> Path | None:
    """Return the local path that `name` refers to, relative to data_dir; None for a name of the hub."""
    if not is_path(name):
        return None
    return Path(files.expand_path(config.data_dir, "data_dir"), files.expand_path(name, "dataset"))


def folder(config: Config, name: str, weights: bool = False) -> str:
    """Return the folder of a model or tokenizer: a local one, or the hub's cache, after a download if that is allowed.

    The cache is Hugging Face's ($HF_HOME). DataError if the files are not available; fails fast when offline.
    """
    if path := path_of(config, name):
        if not path.is_dir():
            raise DataError(f"folder {path} not found", where=name, hint="a name without ./ is one of the hub")
        return str(path)
    hub = _library()
    patterns = [*_SETTINGS, *(_WEIGHTS if weights else ())]

    def snapshot(local_only: bool) -> str:
        return hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"],
                                     local_files_only=local_only)

    def find() -> str | None:
        try:
            return snapshot(True)
        except hub.errors.LocalEntryNotFoundError:
            return None

    return once(config, lock(name), f"the model or tokenizer '{name}'", find, lambda: snapshot(False))


def lock(name: str) -> Path:
    """Return the lock file for downloads of `name` into the cache."""
    return Path(_library().constants.HF_HUB_CACHE, f".fetching-{name.replace('/', '--')}")


def once(config: Config, lock: Path, name: str, find: Callable[[], T | None], fetch: Callable[[], object]) -> T:
    """Return what `find` returns, after one process has called `fetch` if that is needed and allowed.

    DataError as in `folder`.
    """
    constants = _library().constants
    forbidden = ("data_download is false" if not config.data_download else
                 "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else None)
    return download.once_if_allowed(lock, name, find, fetch, constants.ENDPOINT, forbidden,
                                    "check that the hub has it under this name, and whether it needs `hf auth login`")


def create(config: Config, name: str, what: str, build: Callable[[], T]) -> T:
    """Return what `build` returns: from the hub's cache alone if that suffices, otherwise after a download.

    A second attempt draws the same random numbers. name: of the files, for a lock. what: for messages. DataError if the
    files are unavailable.
    """
    import torch  # imported on demand: this folder loads without torch

    state, constants = torch.get_rng_state(), _library().constants

    def build_offline() -> T | None:
        torch.set_rng_state(state)
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            return build()
        except OSError:  # the hub's network and cache errors are OSErrors
            return None
        finally:
            constants.HF_HUB_OFFLINE = before

    return once(config, lock(name), what, build_offline, build)


def tokenizer_name(config: Config) -> str:
    """Return the name of the tokenizer of a config: `tokenizer`, or that of its model."""
    return config.tokenizer or config.model.removeprefix("hf/")


def tokenizer(config: Config) -> Any:
    """Load the tokenizer of a config. DataError if it is not available."""
    name = tokenizer_name(config)
    transformers = import_library("transformers")
    with report_errors(f"'{name}' is not a tokenizer", "tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(folder(config, name), trust_remote_code=False)


def pad_token(tokenizer: Any) -> int:
    """Return the id of the token that pads short texts. Without one, any token will do: it is masked."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def settings(config: Config, **changes: Any) -> Any:
    """Load the config.json of a model of the family hf. ConfigError if it has none that can be read."""
    transformers = import_library("transformers")
    where = folder(config, config.model.removeprefix("hf/"), weights=config.model_pretrained)
    with report_errors(f"{config.model} has no config.json of a known model", "model"):
        return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **changes)


@contextlib.contextmanager
def report_errors(message: str, where: str) -> Iterator[None]:
    """Turn errors of transformers in the block into a ConfigError: `message`, and the first line of the error."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ConfigError(f"{message}: {lines[0].strip()[:300]}", where=where) from error


def _library() -> Any:
    """Import huggingface_hub, with the parts that are used here."""
    for part in ("constants", "errors"):
        import_library(f"huggingface_hub.{part}")
    return import_library("huggingface_hub")


def import_library(name: str) -> Any:
    """Import a library of Hugging Face, without its progress bars. DataError if it is not installed."""
    import importlib

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before huggingface_hub is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        library: Any = importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0].replace("_", "-")
        raise DataError(f"Hugging Face models and data sets need the library {package}, which is not installed",
                        hint=f"pip install {package}") from None
    if name == "datasets":
        library.disable_progress_bars()
    elif name == "transformers":
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return library
