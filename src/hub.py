"""Hugging Face names: folders of this machine, or what a prefetch has put into the cache; the tokenizers in them."""
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

Found = TypeVar("Found")

# never pickled weights, never code
_SETTINGS = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("*.safetensors",)


def path_of(config: Config, name: str) -> Path | None:
    """The file or folder that `name` means, relative names under data_dir; None for a name of the hub."""
    if not is_path(name):
        return None
    return Path(files.expand_path(config.data_dir, "data_dir"), files.expand_path(name, "dataset"))


def folder(config: Config, name: str, weights: bool = False) -> str:
    """Where the files of a model or tokenizer lie: one's own folder, or the cache, filled if that is allowed.

    The cache is Hugging Face's ($HF_HOME). DataError if they are not to be had, at once where there is no internet.
    """
    if path := path_of(config, name):
        if not path.is_dir():
            raise DataError(f"there is no folder {path}", where=name, hint="a name without ./ is one of the hub")
        return str(path)
    hub = _library()
    patterns = [*_SETTINGS, *(_WEIGHTS if weights else ())]

    def snapshot(here: bool) -> str:
        return hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=here)

    def find() -> str | None:
        try:
            return snapshot(True)
        except hub.errors.LocalEntryNotFoundError:
            return None

    return once(config, lock(name), f"the model or tokenizer '{name}'", find, lambda: snapshot(False))


def lock(name: str) -> Path:
    """The lock of what is fetched into the cache as `name`."""
    return Path(_library().constants.HF_HUB_CACHE, f".fetching-{name.replace('/', '--')}")


def once(config: Config, lock: Path, what: str, find: Callable[[], Found | None], fetch: Callable[[], object]) -> Found:
    """What `find` finds, fetched from the hub if need be and allowed, by one process alone. DataError as in folder."""
    constants = _library().constants
    forbidden = ("data_download is false" if not config.data_download else
                 "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else None)
    return download.once_if_allowed(lock, what, find, fetch, constants.ENDPOINT, forbidden,
                                 "see whether the hub has it under this name, and whether it needs `hf auth login`")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Inside, Hugging Face's library looks into its cache and nowhere else."""
    constants = _library().constants
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def tokenizer_name(config: Config) -> str:
    """The tokenizer of a config: its own, or that of its model."""
    return config.tokenizer or config.model.removeprefix("hf/")


def tokenizer(config: Config) -> Any:
    """The tokenizer of a config. DataError if it is not to be had."""
    name = tokenizer_name(config)
    transformers = imported("transformers")
    with told(f"'{name}' is no tokenizer", "tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(folder(config, name), trust_remote_code=False)


def pad_token(made: Any) -> int:
    """The number of the token that fills up short texts. Where there is none, any will do: it is masked."""
    return next((token for token in (made.pad_token_id, made.eos_token_id) if token is not None), 0)


def settings(config: Config, **changes: Any) -> Any:
    """What a model of the family hf says of itself: its config.json. ConfigError if it has none that can be read."""
    transformers = imported("transformers")
    where = folder(config, config.model.removeprefix("hf/"), weights=config.model_pretrained)
    with told(f"{config.model} has no config.json of a known model", "model"):
        return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **changes)


@contextlib.contextmanager
def told(what: str, where: str) -> Iterator[None]:
    """What transformers cannot read inside becomes a ConfigError: what, and the first line of its words."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ConfigError(f"{what}: {lines[0].strip()[:300]}", where=where) from error


def _library() -> Any:
    """huggingface_hub, with the parts of it that are used here."""
    for part in ("constants", "errors"):
        imported(f"huggingface_hub.{part}")
    return imported("huggingface_hub")


def imported(name: str) -> Any:
    """A library of Hugging Face, without its progress bars. DataError if it is not installed."""
    import importlib

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before huggingface_hub is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        library: Any = importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0].replace("_", "-")
        raise DataError(f"what comes from Hugging Face needs the library {package}, which is not installed",
                        hint=f"pip install {package}") from None
    if name == "datasets":
        library.disable_progress_bars()
    elif name == "transformers":
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return library
