"""The map: the old photo under today's buildings, coloured by what is said of them.

However many buildings there are, only those in view go to the browser, and far out a picture in their place. What has
changed since is drawn by a small layer on top, so a click costs the same whatever is in view. The map answers no
single polygon: a click anywhere is looked up here, where also what lies under another building is known.
"""

from __future__ import annotations

import base64
import math
from io import BytesIO
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from ipyleaflet import GeoJSON, ImageOverlay, Map, ScaleControl, TileLayer, basemaps
from PIL import Image, ImageColor

from historymap_lib.looks import LOOKS
from historymap_lib.widgets.buildings import VERDICTS
from historymap_lib.widgets.panel import FOLDER, STYLE

if TYPE_CHECKING:
    from historymap_lib.display import Display
    from historymap_lib.widgets.annotating import Session
    from historymap_lib.widgets.buildings import VIEW

MOST = 800
"""Buildings that are drawn one by one; the browser takes 0.2 s for them."""
MANY = 200
"""With so many that have changed the view is drawn anew: twice as many shapes would make each pan slower."""
CELL = 8
"""Pixels of a cell of the picture far out."""
DEEPEST = 23
"""Zoom; a house then fills the map."""
CLOSE = 19
"""Zoom at which a building is looked at."""
FINGER = 8
"""Pixels that a click may miss a building by."""
PANES = {"photo": {"zIndex": 250}, "probability": {"zIndex": 260}, "buildings": {"zIndex": 410}}
EMPTY: dict[str, Any] = {"type": "FeatureCollection", "features": []}
NOTHING = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
CIRCLE, TILE = 360.0, 256


class Swipe(anywidget.AnyWidget):
    """A slider between then and now for the map beside it."""

    _esm = FOLDER / "swipe.js"
    _css = STYLE


class Shapes(GeoJSON):
    """GeoJSON that does not listen to the mouse: the map does."""

    interactive = traitlets.Bool(default_value=False).tag(sync=True, o=True)


class BuildingMap(Map):
    """The map of a session; `draw` brings it up to date."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._drawn: Any = None
        self._tiles: dict[str, TileLayer] = {}
        self._shapes, self._top, self._chosen = (
            Shapes(data=EMPTY, pane="buildings", name=name) for name in ("buildings", "changed", "selected")
        )
        west, south, east, north = session.buildings.bounds()
        self._far = ImageOverlay(url=NOTHING, bounds=((south, west), (north, east)), pane="buildings", name="overview")
        super().__init__(
            layers=(self._far, self._shapes, self._top, self._chosen), panes=PANES, keyboard=False,
            center=((south + north) / 2, (west + east) / 2), zoom=_zoom((west, south, east, north)), max_zoom=DEEPEST,
            scroll_wheel_zoom=True, double_click_zoom=False, attribution_control=False,
        )  # fmt: skip
        self.add(ScaleControl(position="bottomleft", imperial=False))
        self.add_class("hm-map")
        self.on_interaction(self._interacted)
        self.observe(lambda _: self.draw(), ["west", "south", "east", "north"])

    @property
    def view(self) -> VIEW | None:
        """West, south, east, north in degrees, or None as long as no page shows the map."""
        return (self.west, self.south, self.east, self.north) if self.east > self.west else None

    def draw(self) -> None:
        """Bring the map up to date with the session; the browser is told only what differs."""
        session = self._session
        with session.lock, self.hold_sync():
            view = self.view
            session.view = view
            if view is None:
                return
            passing = session.passing()
            state = (view, session.threshold, id(session.buildings), passing.tobytes())
            changed = self._in_view(session.changed, view, passing)
            far = self._far.url != NOTHING
            if state != self._drawn or (far and changed) or len(changed) >= MANY:
                self._drawn, changed = state, []
                session.changed.clear()
                self._draw_view(view, passing)
            self._put(self._top, self._collection(changed, " hm-changed"))
            chosen = [] if session.selected is None else [session.selected]
            self._put(self._chosen, session.buildings.collection(chosen, ["hm-chosen"] * len(chosen)))

    def show_layer(self, name: str, display: Display | None, url: str | None) -> None:
        """Lay a display copy under the buildings, or take it away; one that has not changed stays."""
        there = self._tiles.get(name)
        if display is None or url is None:
            if there is not None:
                self.remove(self._tiles.pop(name))
            return
        if there is not None and there.url == url:
            return
        west, south, east, north = display.bounds
        layer = TileLayer(
            url=url, pane=name, name=name, bounds=((south, west), (north, east)), max_native_zoom=display.max_zoom,
            max_zoom=DEEPEST, attribution="",
        )  # fmt: skip
        self._replace(name, layer)

    def show_base(self, *, wanted: bool) -> None:
        """Lay an online map of today under it all, or take it away."""
        if wanted and "base" not in self._tiles:
            known = basemaps.OpenStreetMap.Mapnik
            self._replace("base", TileLayer(url=known.build_url(), max_native_zoom=19, max_zoom=DEEPEST, name="base"))
        elif not wanted and "base" in self._tiles:
            self.remove(self._tiles.pop("base"))

    def look_at(self, row: int) -> None:
        """Move the map to a building, if it is not well in view."""
        longitude, latitude = self._session.buildings.point(row)
        view, zoom = self.view, math.log2(self._world() / TILE)
        near = zoom >= CLOSE - 2
        if view is not None and near:
            west, south, east, north = view
            wide, high = (east - west) * 0.1, (north - south) * 0.1
            if west + wide < longitude < east - wide and south + high < latitude < north - high:
                return
        with self.hold_sync():
            self.center = (latitude, longitude)
            if not near:
                self.zoom = CLOSE

    def show_all(self) -> None:
        """Show the whole area."""
        west, south, east, north = bounds = self._session.buildings.bounds()
        with self.hold_sync():
            self.center = ((south + north) / 2, (west + east) / 2)
            self.zoom = _zoom(bounds)

    def _in_view(self, rows: set[int], view: VIEW, passing: np.ndarray) -> list[int]:
        """Return those that are shown here: what lies elsewhere is drawn as it is then when the map moves there."""
        if not rows:
            return []
        inside = self._session.buildings.within(view)
        inside = inside[passing[inside]]
        found: list[int] = inside[np.isin(inside, list(rows))].tolist()
        return found

    def _draw_view(self, view: VIEW, passing: np.ndarray) -> None:
        rows = self._session.buildings.within(view)
        rows = rows[passing[rows]]
        near = len(rows) <= MOST
        self._put(self._shapes, self._collection(rows.tolist()) if near else EMPTY)
        west, south, east, north = view
        self._far.bounds = ((south, west), (north, east))
        self._far.url = NOTHING if near else self._picture(view, rows)

    def _collection(self, rows: list[int], further: str = "") -> dict[str, Any]:
        session = self._session
        shown, annotated = session.buildings.shown(session.threshold), session.buildings.annotated
        replaced = session.buildings.replaced(session.threshold)
        classes = [
            f"hm-building hm-{VERDICTS[shown[row]]}"
            + " hm-annotated" * int(annotated[row] >= 0)
            + " hm-replaced" * int(replaced[row])
            + further
            for row in rows
        ]
        return session.buildings.collection(rows, classes)

    def _picture(self, view: VIEW, rows: np.ndarray) -> str:
        """Return a picture of so many buildings: cells in the mixed colour of those in them, more opaque with more."""
        session = self._session
        wide, high = (max(1, round(side / CELL)) for side in self._size(view))
        west, south, east, north = view
        points = session.buildings.centres[rows]
        top, bottom = _mercator(north), _mercator(south)
        x = ((points[:, 0] - west) / (east - west) * wide).astype(int).clip(0, wide - 1)
        y = ((top - _mercator(points[:, 1])) / (top - bottom) * high).astype(int).clip(0, high - 1)
        shown = session.buildings.shown(session.threshold)[rows]
        counts = np.zeros((high * wide, len(VERDICTS)))
        np.add.at(counts, (y * wide + x, shown), 1)
        number = counts.sum(axis=1)
        colours = np.array([ImageColor.getrgb(LOOKS[name].face) for name in VERDICTS])
        mixed = counts @ colours / np.maximum(number, 1)[:, None]
        strength = np.where(number > 0, 80 + 110 * np.minimum(number / max(1.0, np.quantile(number, 0.99)), 1), 0)
        pixels = np.column_stack([mixed, strength]).astype(np.uint8).reshape(high, wide, 4)
        data = BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"

    def _size(self, view: VIEW) -> tuple[float, float]:
        """Return width and height of the view in pixels."""
        west, south, east, north = view
        world = self._world()
        return (east - west) / CIRCLE * world, (_mercator(north) - _mercator(south)) / (2 * math.pi) * world

    def _world(self) -> float:
        """Return how many pixels the way around the Earth has at this zoom."""
        return float(TILE * 2 ** self.trait_values()["zoom"])

    def _interacted(self, **event: Any) -> None:
        if event.get("type") == "click":
            latitude, longitude = event["coordinates"]
            self._session.click(longitude, latitude, FINGER * CIRCLE / self._world())

    def _replace(self, name: str, layer: TileLayer) -> None:
        if name in self._tiles:
            self.substitute(self._tiles[name], layer)
        else:
            self.add(layer)
        self._tiles[name] = layer

    @staticmethod
    def _put(layer: GeoJSON, data: dict[str, Any]) -> None:
        if layer.data != data:
            layer.data = data


def _mercator(latitude: Any) -> Any:
    """Return how far north of the equator a latitude lies on a map in EPSG:3857, in radians (Snyder 1987, 7-2)."""
    return np.arcsinh(np.tan(np.radians(latitude)))


def _zoom(bounds: VIEW, wide: int = 640, high: int = 480) -> int:
    """Return the zoom at which bounds fit on a map of so many pixels."""
    west, south, east, north = bounds
    across = max((east - west) / CIRCLE * TILE / wide, 1e-12)
    down = max((_mercator(north) - _mercator(south)) / (2 * math.pi) * TILE / high, 1e-12)
    return int(max(1, min(CLOSE, math.floor(-math.log2(max(across, down))))))
