"""The pictures of the steps: training curves, probabilities over the photo, map and histogram of the verdicts.

Each function writes one PNG, whole or not at all. No state is shared (no pyplot), so a picture can be drawn in any
thread and in a notebook alike. What matters is never told by colour alone: see `looks`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from historymap_lib import artifacts
from historymap_lib.looks import LOOKS, Look

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from historymap_lib.imagery import Photo
    from historymap_lib.settings import Verification

LONGEST = 1400
"""Pixels along the longer side of a map."""
WIDE, HIGH = 900, 420
"""Pixels that a map has at least, so that title and legend find room beside a narrow strip."""
MARGIN, HEAD, FOOT = 24, 62, 66
"""Pixels around a map, above it for the title, and below it for the legend."""
KILOMETRE = 1000
BLOCK = 1024
"""About how many pixels of the photo are read at a time, in each direction."""
DPI = 100
QUIET, NOTHING, INK = "#767676", "#E4E4E4", "#1A1A1A"
CURVES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", (0, (1, 1))), ("#E69F00", (0, (5, 1))))
"""Colour and line style of each member of the model; the colours are Okabe and Ito's (2008, Color Universal Design)."""


SCORED = ("not_existed", "unsure", "existed")

OUTLINE = Look("outline", INK, 0.0, "#E69F00", width=1.0)
ANNOTATED = Look("annotated", INK, 0.0, INK, width=2.4)

Extent = tuple[float, float, float, float]


def draw_history(history: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and validation IoU over the epochs, a line a member, the rounds one after another.

    Args:
        history: records with `round`, `member` (from 0), `epoch` (from 1), `loss`, and where it was validated `iou`.
        path: the PNG to write.

    """
    figure = Figure(figsize=(10, 6.4), dpi=DPI, layout="constrained")
    losses, overlaps = figure.subplots(2, 1, sharex=True)
    losses.set(ylabel="training loss")
    overlaps.set(ylabel="validation IoU", xlabel="epoch")
    rounds = _rounds(history)
    members = sorted({record["member"] for record in history})
    for number, (start, _) in rounds.items():
        for member in members:
            records = [one for one in history if (one["round"], one["member"]) == (number, member)]
            _draw_curves(losses, overlaps, sorted(records, key=lambda one: one["epoch"]), start)
    for axes in (losses, overlaps):
        _divide(axes, rounds)
        _tidy(axes)
    handles = [Line2D([], [], **_curve(member), label=f"member {member + 1}") for member in members]
    if any(record.get("iou") is not None for record in history):
        handles.append(Line2D([], [], linestyle="", marker="*", markersize=12, color=QUIET, label="best, kept"))
    losses.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), frameon=False)
    title = "How the training went" if history else "No training yet"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    write_figure(figure, path)


def draw_probability(photo: Photo, raster: Path, path: Path) -> None:
    """Draw the probabilities of `raster` over the photo; the more probable, the less of the photo shines through.

    Args:
        photo: the open photo.
        raster: uint8, 0 to 254 for probability 0 to 1, 255 no data, in any CRS.
        path: the PNG to write.

    """
    figure, axes = blank_map(photo, "How probable is a building?")
    grey, extent = thumbnail(photo, LONGEST)
    draw_photo(axes, grey, extent)
    left, right, bottom, top = extent
    transform = rasterio.transform.from_bounds(left, bottom, right, top, grey.shape[1], grey.shape[0])
    with rasterio.open(raster) as dataset:
        grid = {"crs": photo.grid.crs.to_wkt(), "transform": transform, "width": grey.shape[1], "height": grey.shape[0]}
        with WarpedVRT(dataset, src_nodata=255, nodata=255, resampling=Resampling.average, **grid) as view:
            values = view.read(1)
    shown = np.ma.masked_equal(values, 255) / 254
    image = axes.imshow(shown, cmap=veil(), vmin=0, vmax=1, extent=extent, aspect="auto", zorder=2)
    draw_scale(axes)
    _colour_bar(figure, image)
    write_figure(figure, path)


def draw_verdicts(verdicts: gpd.GeoDataFrame, photo: Photo, path: Path) -> None:
    """Draw the footprints over the photo, each in the look of its verdict, annotated ones with a dark border.

    Args:
        verdicts: polygons in any CRS, with the columns `verdict` and `annotated`, and perhaps `photo` (its name).
        photo: the open photo.
        path: the PNG to write.

    """
    names = verdicts["photo"].dropna().unique() if "photo" in verdicts else []
    question = f"which of {len(verdicts):,} buildings stood?"
    figure, axes = blank_map(photo, f"{names[0]}: {question}" if len(names) == 1 else question.capitalize())
    draw_photo(axes, *thumbnail(photo, LONGEST), fade=0.35)
    shapes = verdicts.geometry.to_crs(photo.grid.crs).to_numpy()
    line = _line_width(shapes, axes)
    handles = []
    for verdict, look in LOOKS.items():
        chosen = (verdicts["verdict"] == verdict).to_numpy()
        axes.add_artist(footprint_patch(shapes[chosen], look, line, zorder=2))
        handles.append(footprint_patch(shapes[:0], look, label=f"{look.label} ({chosen.sum():,})"))
    annotated = verdicts["annotated"].to_numpy(dtype=bool)
    axes.add_artist(footprint_patch(shapes[annotated], ANNOTATED, line, zorder=3))
    handles.append(footprint_patch(shapes[:0], ANNOTATED, label=f"{ANNOTATED.label} ({annotated.sum():,})"))
    draw_scale(axes)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=11)
    write_figure(figure, path)


def draw_preview(photo: Photo, shapes: NDArray[Any], path: Path, title: str) -> float:
    """Draw the photo with outlines over it, and write how far it reaches; return the share of it that has data.

    Args:
        photo: the open photo, of about as many pixels as the picture.
        shapes: polygons in the CRS of the photo's grid.
        path: the PNG to write.
        title: what stands above.

    """
    figure, axes = blank_map(photo, title)
    grey, extent = thumbnail(photo, LONGEST)
    draw_photo(axes, grey, extent)
    axes.add_artist(footprint_patch(shapes, OUTLINE, _line_width(shapes, axes) if len(shapes) else 1.0, zorder=2))
    draw_scale(axes)
    west, south, east, north = photo.grid.bounds
    words = f"{photo.grid.crs.name}: {west:,.0f} to {east:,.0f} east, {south:,.0f} to {north:,.0f} north, in metres"
    figure.text(0.5, FOOT / 2 / (figure.get_size_inches()[1] * DPI), words, ha="center", va="center", fontsize=11)
    write_figure(figure, path)
    return float((grey > 0).mean())


def draw_histogram(verdicts: gpd.GeoDataFrame, settings: Verification, path: Path) -> None:
    """Draw how many buildings have which probability, those that people judged set apart, and the thresholds.

    Args:
        verdicts: with the columns verdict, probability and annotated.
        settings: with the thresholds.
        path: the PNG to write.

    """
    scored = verdicts[verdicts["probability"].notna()]
    figure = Figure(figsize=(9, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    annotated = scored["annotated"].to_numpy(bool)
    groups = [(LOOKS[name], (scored["verdict"] == name).to_numpy() & ~annotated) for name in SCORED]
    groups.append((Look("judged by people", "#FFFFFF", 1.0, INK), annotated))
    axes.hist(
        [scored["probability"].to_numpy()[which] for _, which in groups],
        list(np.linspace(0, 1, 41)),
        stacked=True,
        color=[to_rgba(look.face, max(look.alpha, 0.4)) for look, _ in groups],
        edgecolor=[look.edge for look, _ in groups],
        hatch=[look.hatch for look, _ in groups],
        label=[f"{look.label} ({which.sum():,})" for look, which in groups],
    )
    for threshold in (settings.not_existed_to, settings.existed_from):
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), xlabel="probability that it stood", ylabel="buildings")
    axes.set_title("How sure is the model?", loc="left", fontweight="bold")
    axes.legend(loc="upper center", frameon=False)
    _tidy(axes)
    write_figure(figure, path)


def thumbnail(photo: Photo, longest: int) -> tuple[NDArray[np.uint8], Extent]:
    """Return the photo reduced to at most `longest` pixels a side, and where it lies.

    Whole numbers of pixels are averaged, those without data left out. The photo is read a block at a time.

    Returns:
        Grey values (height x width, uint8), 0 where there is no data, and left, right, bottom, top in metres, as
        `imshow` takes them. They may reach over the grid by less than a pixel of the thumbnail.

    """
    grid = photo.grid
    factor = math.ceil(max(grid.width, grid.height) / longest)
    height, width = math.ceil(grid.height / factor), math.ceil(grid.width / factor)
    small = np.zeros((height, width), np.uint8)
    step = max(1, BLOCK // factor)
    for top in range(0, height, step):
        for left in range(0, width, step):
            rows, columns = min(step, height - top), min(step, width - left)
            window = Window(left * factor, top * factor, columns * factor, rows * factor)
            small[top : top + rows, left : left + columns] = _pool(*photo.read(window), factor)
    west, south, east, north = grid.bounds_of(Window(0, 0, width * factor, height * factor))
    return small, (west, east, south, north)


def _pool(grey: NDArray[np.uint8], valid: NDArray[np.bool_], factor: int) -> NDArray[np.uint8]:
    """Return the mean of the valid pixels in each square of `factor` pixels, 0 where there is none."""
    rows, columns = grey.shape[0] // factor, grey.shape[1] // factor
    squares = (rows, factor, columns, factor)
    total = np.where(valid, grey, 0).reshape(squares).sum(axis=(1, 3), dtype=np.uint32)
    number = valid.reshape(squares).sum(axis=(1, 3), dtype=np.uint32)
    mean: NDArray[np.uint8] = (total / np.maximum(number, 1)).round().astype(np.uint8)
    return mean


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with artifacts.replacing(path) as partial:
        figure.savefig(partial, format="png", pil_kwargs={"compress_level": 3})  # the rest is slow for little


def _rounds(history: list[dict[str, Any]]) -> dict[int, tuple[int, int]]:
    """Return for each round after how many epochs it starts on the common axis, and how many it has."""
    rounds, start = {}, 0
    for number in sorted({record["round"] for record in history}):
        length = max(record["epoch"] for record in history if record["round"] == number)
        rounds[number] = (start, length)
        start += length
    return rounds


def _curve(member: int) -> dict[str, Any]:
    """Return how the lines of a member of the model are drawn."""
    color, line = CURVES[member % len(CURVES)]
    return {"color": color, "linestyle": line, "linewidth": 1.8, "marker": "o", "markersize": 3}


def _draw_curves(losses: Axes, overlaps: Axes, records: list[dict[str, Any]], start: int) -> None:
    """Draw one member in one round, with a star at the epoch whose weights it keeps."""
    if not records:
        return
    style = _curve(records[0]["member"])
    scored = [one for one in records if one.get("iou") is not None]
    losses.plot([start + one["epoch"] for one in records], [one["loss"] for one in records], **style)
    overlaps.plot([start + one["epoch"] for one in scored], [one["iou"] for one in scored], **style)
    if scored:
        best = max(scored, key=lambda one: one["iou"])
        star = {"markersize": 14, "markeredgecolor": "white", "color": style["color"]}
        overlaps.plot(start + best["epoch"], best["iou"], "*", zorder=4, **star)


def _divide(axes: Axes, rounds: dict[int, tuple[int, int]]) -> None:
    """Divide the rounds by thin lines, name them, and count the epochs of each from 1."""
    total = sum(length for _, length in rounds.values())
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, total) if total <= 20 * step)
    ticks: dict[int, str] = {}
    for number, (start, length) in rounds.items():
        ticks |= {start + epoch: str(epoch) for epoch in range(1, length + 1) if epoch % every == 0}
        if start:
            axes.axvline(start + 0.5, color=QUIET, linewidth=0.8)
        words = f" round {number}"
        axes.text(start + 0.5, 0.98, words, transform=axes.get_xaxis_transform(), va="top", color=QUIET)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(0.5, max(total, 1) + 0.5)
    axes.margins(y=0.2)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def blank_map(photo: Photo, title: str) -> tuple[Figure, Axes]:
    """Return a figure with a title, and axes in metres with the shape of the photo, room for a legend below."""
    west, south, east, north = photo.grid.bounds
    scale = LONGEST / max(east - west, north - south)
    wide, high = max(WIDE, (east - west) * scale), max(HIGH, (north - south) * scale)
    width, height = wide + 2 * MARGIN, high + HEAD + FOOT
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((MARGIN / width, FOOT / height, wide / width, high / height), facecolor=NOTHING)
    x, y, half = (west + east) / 2, (south + north) / 2, 1 / (2 * scale)
    axes.set(xlim=(x - wide * half, x + wide * half), ylim=(y - high * half, y + high * half), xticks=[], yticks=[])
    axes.set_autoscale_on(False)
    axes.spines[:].set_color(QUIET)
    figure.text(MARGIN / width, 1 - HEAD / 2 / height, title, va="center", fontsize=17, fontweight="bold")
    return figure, axes


def draw_photo(axes: Axes, grey: NDArray[np.uint8], extent: Extent, fade: float = 0.0) -> None:
    """Draw the photo; `fade` lifts black towards white, so that what lies over it stands out."""
    shown = np.ma.masked_equal(grey, 0)
    axes.imshow(shown, cmap="gray", vmin=-255 * fade / (1 - fade), vmax=255, extent=extent, aspect="auto", zorder=1)


def veil() -> ListedColormap:
    """Return matplotlib's plasma, ever less transparent."""
    colors = colormaps["plasma"](np.linspace(0, 1, 255))
    colors[:, 3] = np.linspace(0.05, 0.85, 255)
    return ListedColormap(colors)


def _colour_bar(figure: Figure, image: Any) -> None:
    """Draw the colours of `image` below the map, over a middle grey as they would look on the photo."""
    width, height = figure.get_size_inches() * DPI
    axes = figure.add_axes((MARGIN / width, 34 / height, 420 / width, 14 / height), facecolor="#808080")
    bar = figure.colorbar(image, cax=axes, orientation="horizontal", format=PercentFormatter(1))
    bar.outline.set_edgecolor(QUIET)


def draw_scale(axes: Axes) -> None:
    """Draw a bar of 1, 2, 5, 10, 20... metres, about a sixth of the map."""
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    power = 10.0 ** math.floor(math.log10((right - left) / 5))
    length = max(step * power for step in (1, 2, 5) if step * power <= (right - left) / 5)
    x, y = left + 20 * _metres(axes), bottom + 20 * _metres(axes)
    halo = [withStroke(linewidth=5, foreground="white")]
    axes.plot([x, x + length], [y, y], color=INK, linewidth=4, solid_capstyle="butt", path_effects=halo, zorder=9)
    words = f"{length / KILOMETRE:g} km" if length >= KILOMETRE else f"{length:g} m"
    above = y + 8 * _metres(axes)
    axes.text(x + length / 2, above, words, ha="center", va="bottom", path_effects=halo, fontsize=13, zorder=9)


def _metres(axes: Axes) -> float:
    """Return how many metres a pixel of the picture shows."""
    left, right = axes.get_xlim()
    return (right - left) / axes.bbox.width


def _line_width(shapes: NDArray[Any], axes: Axes) -> float:
    """Return a width of lines in points that a building of usual size can bear."""
    if shapely.is_missing(shapes).all():
        return 1.0
    side = math.sqrt(np.nanmedian(shapely.area(shapes))) / _metres(axes)
    return min(1.2, max(0.2, side / 14))


def footprint_patch(shapes: NDArray[Any], look: Look, line: float = 1.0, **style: Any) -> PathPatch:
    """Return all polygons of one look as one patch, which is quick for a hundred thousand of them too.

    Add it with `add_artist`: `add_patch` would measure every edge.
    """
    return PathPatch(
        _outline(shapes),
        facecolor=to_rgba(look.face, look.alpha),
        edgecolor=look.edge,
        linestyle=look.line,
        linewidth=look.width * line,
        hatch=look.hatch,
        **style,
    )


def _outline(shapes: NDArray[Any]) -> Outline:
    """Return polygons as one path; their holes turn the other way round, which is what leaves them empty."""
    polygons = shapely.get_parts(shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))])
    if len(polygons) == 0:
        return Outline(np.empty((0, 2)))
    _, points, (rings, _) = shapely.to_ragged_array(shapely.orient_polygons(polygons))
    codes = np.full(len(points), Outline.LINETO, Outline.code_type)
    codes[rings[:-1]], codes[rings[1:] - 1] = Outline.MOVETO, Outline.CLOSEPOLY
    return Outline(points, codes)
