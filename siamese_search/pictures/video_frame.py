"""A video's frame as the picture that a player shows: upright, in its true shape, in sRGB.

Knows nothing of files and times.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.pictures import colour
from siamese_search.pictures.limits import check_pixels
from siamese_search.pictures.video_colour import is_beyond_srgb, to_srgb

Pixels = npt.NDArray[np.uint8]

_UNSPECIFIED: Final = 2  # as a frame says where it says nothing (ITU-T H.273)
_HIGH_DEFINITION: Final = 720  # rows from which on a video that says nothing is BT.709
_EXACT: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_MOST_ASPECT: Final = 4  # what a pixel may be wider than high, or higher; more is no sound value


def shown(frame: VideoFrame, aspect: Fraction | None = None) -> Pixels:
    """The picture that a player shows for a frame, uint8 (height, width, 3).

    ``aspect`` is how much wider than high a pixel is. Of interlaced frames the first field is
    shown, transparent ones lie on white, and high dynamic range is mapped to what a screen shows.
    Raises ImageError for one with no or too many pixels, or which cannot be shown.
    """
    width, height = frame.width, frame.height
    if aspect and 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT:
        width = max(1, round(width * aspect))
    check_pixels(width, height)
    try:
        if frame.interlaced_frame and height > 1:
            frame = _field(frame)
        pixels = _sized(frame, width, height)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"its frames cannot be shown: {why}") from error
    return _upright(pixels, _matrix(frame))


def _sized(frame: VideoFrame, width: int, height: int) -> Pixels:
    """In sRGB, over white."""
    alpha = any(part.is_alpha for part in frame.format.components) or frame.format.has_palette
    deep = is_beyond_srgb(frame.color_trc, frame.color_primaries) and not alpha
    matrix = None
    if not frame.format.is_rgb and frame.colorspace == _UNSPECIFIED:
        large = frame.height >= _HIGH_DEFINITION
        matrix = Colorspace.ITU709 if large else Colorspace.ITU601
    rgb: Any = frame.reformat(
        width,
        height,
        "rgba" if alpha else "rgb48le" if deep else "rgb24",
        src_colorspace=matrix,
        dst_color_range=ColorRange.JPEG,
        interpolation=_EXACT,
    ).to_ndarray()
    if deep:
        return to_srgb(rgb, frame.color_trc, frame.color_primaries)
    if not alpha:
        return np.ascontiguousarray(rgb)
    return np.asarray(colour.displayed(colour.resizable(Image.fromarray(rgb)), None, grey=False))


def _field(frame: VideoFrame) -> VideoFrame:
    """The rows of an interlaced frame that were taken first, or at least together."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add("field", "top"), graph.add("buffersink")).configure()
    graph.push(frame)
    field = graph.pull()
    assert isinstance(field, VideoFrame)
    return field


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """Where a frame says that its right and its down are to be: (right, down) of each."""
    beside: Any = frame.side_data
    found = [one for one in beside if one.type == Type.DISPLAYMATRIX]
    if not found or len(bytes(found[0])) != 9 * 4:
        return None
    right_x, right_y, _, down_x, down_y, *_ = np.frombuffer(bytes(found[0]), np.int32).tolist()
    return right_x, right_y, down_x, down_y


def _upright(pixels: Pixels, matrix: tuple[int, int, int, int] | None) -> Pixels:
    """Turned and mirrored by quarters, as a matrix says (ISO/IEC 14496-12, 8.3.2)."""
    if matrix is None:
        return pixels
    right_x, right_y, down_x, down_y = matrix
    if abs(right_y) + abs(down_x) > abs(right_x) + abs(down_y):
        pixels = pixels.transpose(1, 0, 2)
        across, along = down_x, right_y
    else:
        across, along = right_x, down_y
    if across < 0:
        pixels = pixels[:, ::-1]
    if along < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
