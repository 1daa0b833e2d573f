"""Pictures, through Pillow: each becomes the model's input of uint8, resized, and is decoded only once."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.ir import Value
from tinyopt.samples.preprocessing import PictureLayout, picture_layout
from tinyopt.samples.rows import Progress, Scratch, StoredRows
from tinyopt.samples.specs import PICTURES, check_kind, visible_entries

_FORMATS = ("PNG", "JPEG", "BMP")
_MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels
_DEEP_MODES = ("I", "F")  # and I;16 and its kin: Pillow would clip them to 8 bits instead of scaling
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error, Warning)


def read_pictures(
    where: str, paths: Sequence[Path], graph_input: Value, total: int, scratch: Scratch, on_progress: Progress
) -> StoredRows:
    """One sample for each file: grey or RGB by the input's channels, squashed to its size (bilinear), 0 to 255.

    total: of how many pictures `paths` were chosen. Raises UsageError where the input takes no pictures or Pillow is
    not installed, InvalidModelError for files that are none.
    """
    layout = picture_layout(graph_input.shape)
    if layout is None:
        raise UsageError(
            f"{where}: input '{graph_input.name}' of shape {list(graph_input.shape)} takes no pictures: "
            "expected [1, C, H, W], [1, H, W, C] or [H, W], with 1 or 3 channels"
        )
    scratch.check_room(len(paths) * layout.height * layout.width * layout.channels, where)
    place = scratch.append(b"", where)
    for done, path in enumerate(paths, start=1):
        scratch.append(_read_picture(path, layout).tobytes(), str(path))
        on_progress("reading pictures", done, len(paths))
    return StoredRows(where, scratch, place, np.dtype(np.uint8), graph_input.shape, len(paths), total)


def picture_files(folder: Path) -> tuple[list[Path], list[int]]:
    """The pictures of a folder in the order of their names, or those of its sub-folders, one folder after the other.

    With them the number of the sub-folder of each, in the order of the folders' names, empty without sub-folders.
    Raises UsageError for other files among them.
    """
    entries = visible_entries(folder)
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        check_kind(folder, entries, PICTURES)
        return entries, []
    stranger = next((entry for entry in entries if not entry.is_dir()), None)
    if stranger is not None:
        raise UsageError(f"{folder}: '{stranger.name}' lies beside folders: give each class its folder, or none")
    members = [visible_entries(name) for name in classes]
    for name, files in zip(classes, members, strict=True):
        check_kind(name, files, PICTURES)
    labels = [number for number, files in enumerate(members) for _ in files]
    return [path for files in members for path in files], labels


def _read_picture(path: Path, layout: PictureLayout) -> NDArray[np.uint8]:
    """[H, W], [H, W, C] or [C, H, W], as the input has it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("pictures need Pillow: pip install 'tinyopt[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                if picture.mode.split(";")[0] in _DEEP_MODES:
                    raise InvalidModelError(f"{path} has more than 8 bits per channel: save it with 8")
                converted = picture.convert(_MODES[layout.channels])
        size = (layout.width, layout.height)
        resized = converted if converted.size == size else converted.resize(size, Image.Resampling.BILINEAR)
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidModelError(f"{path} is no picture that can be read ({', '.join(_FORMATS)}): {reason}") from error
    pixels = np.asarray(resized, np.uint8)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 and layout.is_channels_first else pixels
