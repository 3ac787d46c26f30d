"""The annotation map in JupyterLab, used by a person: clicks, keys, reloads, a page of many, apply."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from case_fixtures import (
    CRS,
    NORTH,
    WEST,
    change,
    find_elsewhere,
    lattice,
    make_case,
    rectangle,
    seen,
    write_probability,
)
from job_fixtures import until
from look_fixtures import ALIKE, SPACING, look_at_outlines
from pyproj import Transformer

from historymap_lib import steps
from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.annotations import REPLACED
from historymap_lib.cli import main
from historymap_lib.live_verdicts import LiveVerdicts
from historymap_lib.project import load
from historymap_lib.verification import verify

CHECK = Path(__file__).with_name("check.js")
TO_MERCATOR = Transformer.from_crs(CRS, "EPSG:3857", always_xy=True)
PLACE = """([east, north]) => {
  const tile = document.querySelector(".hm-map .leaflet-photo-pane img.leaflet-tile-loaded");
  const [, z, x, y] = tile.src.match(/\\/(\\d+)\\/(\\d+)\\/(\\d+)(\\?|$)/).map(Number);
  const box = tile.getBoundingClientRect(), half = 20037508.342789244, side = (2 * half) / 2 ** z;
  return [box.left + ((east + half) / side - x) * box.width, box.top + ((half - north) / side - y) * box.height];
}"""
"""Where on the page a place in EPSG:3857 lies: what a photo tile shows stands in its address."""


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A case with verdicts and tiles; one building lies upon another, one where the photo has no data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    buildings = lattice()
    buildings[900] = rectangle(3.1 + 2, 3.1 + 2, 4, 4)
    buildings[901] = rectangle(40, -9, 9, 12)
    settings = {"verification": {"max_offset": 0}, "jobs": {"idle": 30, "grace": 5}}
    file = make_case(tmp_path, buildings, **settings)
    case = load(file)
    steps.run(case, "generate-training", tiles=4)
    write_probability(case, seen({number: shape for number, shape in buildings.items() if number < 900}))
    steps.run(case, "verify")
    return file


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A case with few buildings, some of which are odd."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    courtyard = rectangle(70, 85, 32, 30).difference(rectangle(80, 93, 12, 14))
    buildings = {n: shape for n, shape in lattice(39.4).items() if not shape.intersects(courtyard.buffer(3))}
    buildings |= {
        900: rectangle(3.1 + 2, 3.1 + 2, 4, 4),  # upon way/1
        901: rectangle(40, -9, 9, 12),
        902: courtyard,
        903: rectangle(-7, 100, 14, 12),
    }
    file = make_case(tmp_path, buildings, verification={"max_offset": 0}, jobs={"idle": 30, "grace": 5})
    case = load(file)
    footprints = case.resolve(case.footprints.path)
    frame = gpd.read_file(footprints)
    frame.loc[frame["osm_id"] == 902, "osm_type"] = "relation"
    frame.to_file(footprints, driver="GeoJSON")
    write_probability(case, seen(buildings))
    steps.run(case, "verify")
    return file


@pytest.fixture
def crowded(tmp_path, monkeypatch):
    """A case with more buildings than are drawn one by one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    places = [(3.1 + 7 * column, 5.1 + 7 * row) for row in range(35) for column in range(35)]
    buildings = {number: rectangle(*place, 4.2, 4.2) for number, place in enumerate(places, 1)}
    file = make_case(tmp_path, buildings, verification={"max_offset": 0}, jobs={"idle": 30, "grace": 5})
    write_probability(load(file), seen(buildings))
    steps.run(load(file), "verify")
    find_elsewhere(load(file), {f"way/{number}": (1.5, 1.5) for number in buildings})
    return file


LIKE, OTHER = f"way/{ALIKE[5]}", f"way/{ALIKE[9]}"


@pytest.fixture
def alike(tmp_path, monkeypatch):
    """A case with a first look, in which OTHER existed as soon as a person says that LIKE did."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = make_case(tmp_path, lattice(SPACING), verification={"max_offset": 0}, jobs={"idle": 30, "grace": 5})
    look_at_outlines(load(file), quick=True)
    verify(load(file), quick=True, picture=False)
    live = LiveVerdicts.of(load(file))
    (row,) = np.flatnonzero(live.building_id == OTHER)
    between = [live.after(said)["probability"][row] for said in ({}, {LIKE: True})]
    change(file, "verification", existed_from=float(np.mean(between)))
    return file


class Annotating:
    """The map on a page."""

    def __init__(self, lab):
        self.lab, self.page = lab, lab.page

    def run(self):
        """Run the notebook until the map shows buildings and photo."""
        self.lab.command("notebook:run-all-cells")
        self.page.locator(".hm-map path.hm-building").first.wait_for(state="attached")
        self.page.locator(".hm-map .leaflet-photo-pane img.leaflet-tile-loaded").first.wait_for(state="attached")
        self.page.evaluate("() => document.querySelector('.hm-annotate').scrollIntoView()")
        self.page.wait_for_timeout(500)
        return self

    def at(self):
        """Return the building that is looked at."""
        return self.page.locator(".hm-building-head strong").inner_text()

    def press(self, key):
        """Press a key, and wait until another building is looked at."""
        before = self.at()
        self.page.keyboard.press(key)
        self.page.wait_for_function(
            "before => document.querySelector('.hm-building-head strong')?.textContent !== before", arg=before
        )
        self.page.wait_for_timeout(100)  # a key counts again when the last one was answered
        return before

    def click_at(self, east, south):
        """Show the whole area, somewhat closer, and click on a place in metres from the corner of the photo."""
        self.page.locator(".hm-legend [data-action=all]").click()
        self.page.wait_for_timeout(1000)
        self.page.locator(".hm-map .leaflet-control-zoom-in").click()
        self.page.evaluate("() => document.querySelector('.hm-annotate').scrollIntoView()")
        self.page.wait_for_timeout(1000)  # the map moves there
        place = TO_MERCATOR.transform(WEST + east, NORTH - south)
        self.page.mouse.click(*self.page.evaluate(PLACE, list(place)))
        self.page.wait_for_timeout(500)

    def click(self, path):
        """Click into a polygon of the map."""
        box = path.bounding_box()
        self.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.locator(".hm-building-head").wait_for()


def test_a_building_is_clicked_and_judged_and_stays_judged_after_a_reload_until_it_is_undone(town, lab):
    page = Annotating(lab(town, "5_annotate.ipynb")).run()
    store = AnnotationStore.of(load(town))
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    page.click(page.page.locator(".hm-map path.hm-not_existed").nth(60))
    building = page.at()
    page.press("e")
    until(lambda: store.holding(building))
    assert store.holding(building).verdict == "existed"
    page.press("ArrowLeft")  # the next one was looked at
    assert page.at() == building
    green = page.page.locator(".hm-map path.hm-existed.hm-annotated")
    green.first.wait_for(state="attached")
    page.lab.shot(".hm-annotate")

    page.lab.save()
    page.lab.reload()
    page.run()
    green.first.wait_for(state="attached")
    assert green.count() == 1
    page.page.locator(".hm-judge [data-action=forward]").click()
    page.page.locator(".hm-building-head").wait_for()
    page.page.keyboard.press("z")
    page.page.locator(".hm-said").filter(has_text="taken back").wait_for()
    until(lambda: green.count() == 0)
    assert store.get() == {}
    page.page.keyboard.press("Shift+Z")
    page.page.locator(".hm-said").filter(has_text="holds again").wait_for()
    assert store.get().keys() == {building}
    page.lab.shot(".hm-annotate")
    assert page.lab.errors == []


def test_ten_are_judged_by_keyboard_alone_and_the_export_holds_exactly_these(town, lab, tmp_path):
    page = Annotating(lab(town, "5_annotate.ipynb")).run()
    page.page.locator(".hm-judge [data-action=forward]").click()
    page.page.locator(".hm-building-head").wait_for()
    said = {}
    for key, verdict in zip("enuenuenue", ["existed", "not_existed", "unsure"] * 3 + ["existed"], strict=True):
        said[page.press(key)] = verdict
    page.page.keyboard.press("/")
    page.page.keyboard.type("a shed, e n u z")
    page.page.keyboard.press("Enter")
    last = page.press("n")
    said[last] = "not_existed"
    page.press("Space")
    page.press("ArrowLeft")
    assert main(["annotations", "export", str(tmp_path / "out.json"), "--config", str(town)]) == 0
    exported = json.loads((tmp_path / "out.json").read_text())["annotations"]
    existed = {"existed": True, "not_existed": False, "unsure": None}
    assert {f"{one['osm_type']}/{one['osm_id']}": one["existed"] for one in exported} == {
        name: existed[verdict] for name, verdict in said.items()
    }
    assert [one["notes"] for one in exported if one["notes"]] == ["a shed, e n u z"]
    assert AnnotationStore.of(load(town)).holding(last).notes == "a shed, e n u z"
    assert page.lab.errors == []


def test_by_one_key_another_building_stood_here_until_it_is_undone(town, lab):
    page = Annotating(lab(town, "5_annotate.ipynb")).run()
    store = AnnotationStore.of(load(town))
    page.page.locator(".hm-judge [data-action=forward]").click()
    page.page.locator(".hm-building-head").wait_for()
    building = page.press("r")
    assert (store.holding(building).verdict, store.holding(building).reason) == ("not_existed", REPLACED)
    page.press("ArrowLeft")  # the next one was looked at
    page.page.locator(".hm-map path.hm-annotated.hm-replaced").wait_for(state="attached")
    page.page.locator(".hm-history").filter(has_text=REPLACED).wait_for()
    page.page.locator(".hm-legend p").filter(has_text="another building stood there 1").wait_for()
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    page.page.keyboard.press("z")
    page.page.locator(".hm-said").filter(has_text=f"({REPLACED}): taken back").wait_for()
    assert store.get() == {}
    page.page.keyboard.press("Shift+Z")
    page.page.locator(".hm-said").filter(has_text="holds again").wait_for()
    steps.run(load(town), "verify")
    verdict = gpd.read_file(load(town).paths.verified).set_index("building_id").loc[building]
    assert (verdict["verdict"], verdict["reason"].endswith(REPLACED)) == ("not_existed", True)

    page.page.get_by_role("button", name="many at once").click()
    cell = page.page.locator(".hm-cell").first
    cell.focus()
    page.page.keyboard.press("r")
    page.page.locator(".hm-cell.hm-replaced").wait_for()
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    assert page.lab.errors == []


UPON = """([x, y, what]) => [...document.querySelectorAll(`.hm-map path.hm-changed.${what}`)].some(one => {
  const at = one.getBoundingClientRect();
  return at.left <= x && x <= at.right && at.top <= y && y <= at.bottom;
})"""
"""Whether a place on the page is recoloured so."""


def test_what_is_said_of_one_building_recolours_its_likes_at_once_and_back(alike, lab):
    page = Annotating(lab(alike, "5_annotate.ipynb", size=(1500, 1000))).run()
    case = load(alike)
    before = case.paths.verified.read_bytes()
    place = gpd.read_file(case.paths.verified).set_index("building_id").to_crs("EPSG:3857").geometry.centroid
    page.page.locator(".hm-judge [name=order]").select_option("view")  # so the map stays where it is

    def at(name):
        return page.page.evaluate(PLACE, [place[name].x, place[name].y])

    page.page.mouse.click(*at(LIKE))
    page.page.locator(".hm-building-head").filter(has_text=LIKE).wait_for()
    assert not page.page.evaluate(UPON, [*at(OTHER), "hm-existed"])
    page.press("e")
    page.page.wait_for_function(UPON, arg=[*at(LIKE), "hm-existed.hm-annotated"])
    page.page.wait_for_function(UPON, arg=[*at(OTHER), "hm-existed:not(.hm-annotated)"])
    note = page.page.locator(".hm-legend .hm-learned")
    note.filter(has_text="as learned from 1 judgement, not applied yet").wait_for()
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    page.page.mouse.click(*at(OTHER))
    page.page.locator(".hm-judge .hm-learned").filter(has_text="now existed").wait_for()
    assert case.paths.verified.read_bytes() == before
    page.page.keyboard.press("z")
    page.page.wait_for_function(UPON, arg=[*at(OTHER), "hm-unsure"])
    note.wait_for(state="detached")
    assert page.lab.errors == []


def test_a_page_of_many_is_flipped_and_confirmed_and_then_applied(town, lab):
    page = Annotating(lab(town, "5_annotate.ipynb", size=(1500, 1000))).run()
    page.page.get_by_role("button", name="many at once").click()
    cells = page.page.locator(".hm-cell")
    cells.first.wait_for()
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('.hm-cell img')].every(one => one.naturalWidth > 0)"
    )
    page.lab.shot(".hm-annotate")
    proposed = {cell.get_attribute("data-building"): cell.get_attribute("aria-label") for cell in cells.all()}
    first = next(iter(proposed))
    cells.first.click()
    page.page.wait_for_function(
        "before => document.querySelector('.hm-cell').getAttribute('aria-label') !== before", arg=proposed[first]
    )
    flipped = cells.first.get_attribute("aria-label").split(": ")[1].replace(" ", "_")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Enter")
    store = AnnotationStore.of(load(town))
    until(lambda: len(store.get()) == len(proposed))
    assert store.holding(first).verdict == flipped
    wanted = {name: label.split(": ")[1].replace(" ", "_") for name, label in proposed.items() if name != first}
    assert {name: event.verdict for name, event in store.get().items() if name != first} == wanted

    page.page.locator(".hm-apply [data-action=apply]").click()
    page.page.locator(".hm-apply").filter(has_text="verdicts have changed since").wait_for()
    page.page.locator(".hm-apply").filter(has_text="all is applied").wait_for()
    page.lab.shot(".hm-apply")
    assert load(town).paths.corrected.exists()
    assert page.lab.errors == []


def test_odd_buildings_can_be_judged_each_by_itself(odd, lab):
    """Two upon each other, a relation with a courtyard, one across the edge of the photo, one where it has no data."""
    page = Annotating(lab(odd, "5_annotate.ipynb", size=(1700, 1000))).run()
    case, said = load(odd), {}
    for name, place, key in [
        ("way/900", (7, 7), "e"), ("way/1", (7, 7), "n"), ("relation/902", (76, 100), "e"),
        ("way/903", (2, 106), "n"), ("way/901", (44, 2), "u"),
    ]:  # fmt: skip
        for _ in range(3):  # a click upon several takes them in turn
            page.click_at(*place)
            if page.at() == name:
                break
        assert page.at() == name
        page.lab.shot(".hm-annotate")
        page.press(key)
        said[name] = {"e": "existed", "n": "not_existed", "u": "unsure"}[key]
    before = page.at()
    page.click_at(86, 100)  # the courtyard is no part of the building around it
    assert page.at() == before
    assert {name: event.verdict for name, event in AnnotationStore.of(case).get().items()} == said
    steps.run(case, "verify")
    verdicts = gpd.read_file(case.paths.verified).set_index("building_id")
    assert verdicts.loc[list(said), "verdict"].to_dict() == said
    assert len(verdicts.loc["relation/902"].geometry.interiors) == 1
    assert verdicts.loc["way/903", "coverage"] == pytest.approx(0.5, abs=0.05)
    assert verdicts.loc["way/901", "coverage"] == 0
    assert page.lab.errors == []


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_can_be_read_at_every_zoom_in_either_theme(crowded, lab, theme):
    page = Annotating(lab(crowded, "5_annotate.ipynb", size=(1500, 1000)))
    page.lab.command("apputils:change-theme", theme=f"JupyterLab {theme}")
    page.lab.command("notebook:run-all-cells")
    drawn, far = page.page.locator(".hm-map path.hm-building"), page.page.locator(".hm-map img.leaflet-image-layer")
    page.page.wait_for_function("() => document.querySelector('.hm-map img.leaflet-image-layer')?.src.includes('png')")
    assert drawn.count() == 0
    page.page.locator(".hm-map .leaflet-photo-pane img.leaflet-tile-loaded").first.wait_for(state="attached")
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    page.page.locator(".hm-map .leaflet-control-zoom-in").click()
    drawn.first.wait_for(state="attached")
    assert far.get_attribute("src").startswith("data:image/gif")
    page.lab.shot(".hm-annotate")
    page.page.locator(".hm-judge [data-action=forward]").click()
    page.page.locator(".hm-building-head").wait_for()
    page.page.locator(".hm-place").filter(has_text="found 2.1 m to the north-east of the map").wait_for()
    page.press("e")
    page.page.wait_for_timeout(1000)  # the map moves to the next, and then back
    page.press("ArrowLeft")
    page.page.locator(".hm-map path.hm-annotated").first.wait_for(state="attached")
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    page.page.get_by_role("button", name="many at once").click()
    page.page.locator(".hm-cell").first.wait_for()
    page.lab.shot(".hm-annotate")
    assert page.page.evaluate(CHECK.read_text(encoding="utf-8")) == []
    assert page.lab.errors == []


def test_the_workbench_holds_the_map_too(town, lab):
    page = Annotating(lab(town, size=(1500, 1000))).run()
    page.click(page.page.locator(".hm-map path.hm-not_existed").nth(60))
    building = page.at()
    page.press("e")
    store = AnnotationStore.of(load(town))
    until(lambda: store.holding(building))
    page.page.locator(".hm-card").filter(has_text="annotations").filter(has_text="1 building,").wait_for()
    page.lab.form("verify").get_by_role("button", name="Run").click()
    page.lab.job(2, "completed")  # the first has made the photo for the map
    page.page.locator(".hm-legend [data-action=all]").click()
    page.page.locator(".hm-map path.hm-existed.hm-annotated").first.wait_for(state="attached")
    assert page.lab.errors == []
