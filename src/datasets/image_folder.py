"""A folder of images, CLASS/IMAGE: its classes and files, and errors that name what does not fit this form."""
from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from src.errors import DataError, listed

SYSTEM_NAMES = frozenset(("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN",
                          "System Volume Information", "Thumbs.db", "desktop.ini"))
# Pillow identifies these formats, but cannot decode them without a further program
_WITHOUT_DECODER = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))


class Images(NamedTuple):
    """The images of a folder. paths: [n], in natural order. labels: [n] indices into classes, its sorted subfolders."""

    paths: list[Path]
    labels: list[int]
    classes: tuple[str, ...]


def find_images(name: str, folder: Path) -> Images:
    """Return the images in the subfolders of `folder`, which are the classes.

    name: of the split, for messages. Hidden files and folders, and those of operating systems, are ignored. Files that
    are not images are reported on stderr. DataError for images that are not in a class folder itself, and for class
    folders without images.
    """
    from timm.utils.misc import natural_key

    suffixes = image_suffixes()
    counts: dict[str, int] = {entry.name: 0 for entry in _visible(folder) if entry.is_dir()}
    paths, loose, nested, others = [], [], Counter[str](), Counter[str]()
    for path in _walk(folder):
        *parents, _ = path.relative_to(folder).parts
        if path.suffix.lower() not in suffixes:
            others[path.suffix.lower() or path.name] += 1
        elif len(parents) == 1:
            paths.append(path)
            counts[parents[0]] += 1
        elif parents:
            nested["/".join(parents)] += 1
        else:
            loose.append(path.name)
    classes = tuple(sorted((subfolder for subfolder, count in counts.items() if count), key=natural_key))
    listed_classes = _listed({subfolder: counts[subfolder] for subfolder in classes}) or "none"
    if problems := _problems(counts, loose, nested):
        raise DataError(f"{name} has {', and '.join(problems)}; classes found: {listed_classes}", where=str(folder),
                        allowed="CLASS/IMAGE", hint="move or delete the others, or rename folders that are to be "
                                                    "ignored so that their names start with a dot")
    if others:
        print(f"warning: {name} has {_counted(sum(others.values()), 'file')} that are not images and are ignored "
              f"({_listed(others)}); classes found: {listed_classes}", file=sys.stderr, flush=True)
    index = {subfolder: number for number, subfolder in enumerate(classes)}
    paths.sort(key=lambda path: natural_key(str(path)))
    return Images(paths, [index[path.parent.name] for path in paths], classes)


def _problems(counts: Mapping[str, int], loose: list[str], nested: Mapping[str, int]) -> list[str]:
    """Return what of a folder does not have the form CLASS/IMAGE.

    counts: images by class folder. loose: names of images beside these. nested: images by a folder within them.
    """
    empty = [subfolder for subfolder, count in counts.items()
             if not count and not any(folder.startswith(f"{subfolder}/") for folder in nested)]
    problems = []
    if loose:
        problems.append(f"{_counted(len(loose), 'image')} outside of class folders ({listed(sorted(loose), 10)})")
    if nested:
        problems.append(f"{_counted(sum(nested.values()), 'image')} in subfolders of class folders ({_listed(nested)})")
    if empty:
        problems.append(f"class folders without images ({listed(empty, 10)})")
    return problems or ([] if any(counts.values()) else ["no class folders"])


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that Pillow decodes on this machine, in lower case."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items()
                     if kind in Image.OPEN and kind not in _WITHOUT_DECODER)


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to an operating system or a tool."""
    return name.startswith(".") or name in SYSTEM_NAMES


def _visible(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not is_ignored(entry.name)), key=lambda entry: entry.name)


def _walk(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield all visible files below a folder. Links to folders are followed."""
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _walk(entry.path)
        else:
            yield Path(entry.path)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(counts: Any) -> str:
    """Return the first ten keys with their counts, and the number of the others."""
    return listed([f"{key}: {count:,}" for key, count in counts.items()], 10)
