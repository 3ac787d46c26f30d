"""`historymap annotations`: files in and out, people and their agreement, undo."""

from __future__ import annotations

import csv
import json

import geopandas as gpd
import pytest
from case_fixtures import lattice, make_case, seen, write_probability

from historymap_lib import cli, steps
from historymap_lib.annotation_files import COLUMNS, read_file, write_file
from historymap_lib.annotation_store import AnnotationStore, Judgement, as_annotation
from historymap_lib.annotations import REPLACED, Annotation
from historymap_lib.errors import AnnotationsError
from historymap_lib.project import load


@pytest.fixture
def town(tmp_path):
    case = load(make_case(tmp_path, dict(list(lattice().items())[:20])))
    write_probability(case, seen(lattice()))
    steps.run(case, "verify")
    return case


@pytest.fixture
def command(town, capsys):
    def run(*words):
        capsys.readouterr()
        code = cli.main(["annotations", *map(str, words), "--config", str(town.file)])
        return code, *capsys.readouterr()

    return run


def write(path, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return path


def held(town):
    return {building: event.verdict for building, event in AnnotationStore.of(town).get().items()}


ENTRIES = [
    Annotation(osm_id=1, existed=True, annotator="ann", created_at="2026-05-01T08:00:00+00:00", notes='a, b\n"c"'),
    Annotation(osm_id=2, existed=None, annotator="", created_at="2026-05-01T08:00:01+00:00"),
    Annotation(osm_id=3, existed=False, annotator="bø", created_at="2026-05-01T08:00:02+00:00", reason=REPLACED),
]


@pytest.mark.parametrize("ending", [".json", ".csv", ".geojson", ".gpkg"])
def test_what_is_written_is_read_again_whatever_the_format(town, tmp_path, ending):
    path = tmp_path / f"a{ending}"
    assert write_file(path, ENTRIES, town) == 3
    found = read_file(path)
    assert found.problems == []
    assert sorted(found.entries, key=lambda entry: entry.osm_id) == ENTRIES
    assert [entry.osm_id for entry in found.entries if entry.replaced] == [3]
    if ending in (".geojson", ".gpkg"):
        frame = gpd.read_file(path)
        assert frame.crs.to_epsg() == 4326
        assert frame.geometry.is_valid.all()


def test_an_import_twice_changes_nothing(town, command, tmp_path):
    path = tmp_path / "a.csv"
    write_file(path, ENTRIES, town)
    assert command("import", path)[:2] == (0, "3 imported, 0 known already, 0 left out\n")
    assert command("import", path)[:2] == (0, "0 imported, 3 known already, 0 left out\n")
    assert held(town) == {"way/1": "existed", "way/2": "unsure", "way/3": "not_existed"}


def test_wrong_rows_are_told_each_and_nothing_is_imported_unless_the_good_are_wanted(town, command, tmp_path):
    good = {"osm_id": 1, "existed": "yes"}
    rows = [
        good, {"osm_id": "x", "existed": "true"}, {"osm_id": 2, "existed": "perhaps"}, good,
        {"osm_id": 99999, "existed": "no"}, {"osm_id": 3, "existed": "", "osm_type": "street"},
    ]  # fmt: skip
    path = write(tmp_path / "a.csv", *rows)
    code, out, err = command("import", path)
    assert code == 2
    assert "5 of 6 rows are wrong and nothing was imported" in err
    for words in (
        "row 2: osm_id is 'x'; write a whole number", "row 3: existed is 'perhaps'; write true, false",
        "row 4: says of way/1 what a row before says", "way/99999 is no building of the case", "row 6: osm_type",
    ):  # fmt: skip
        assert words in out
    assert held(town) == {}
    code, out, err = command("import", path, "--keep-good")
    assert code == 0
    assert out.endswith("1 imported, 0 known already, 5 left out\n")
    assert held(town) == {"way/1": "existed"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "[]", 'holds no list "annotations"'),
        ("a.csv", "id,existed\n1,true\n", "has no column osm_id"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.geojson", '{"type": "Feat', "cannot be read"),
        ("a.gpkg", "no database", "cannot be read"),
        ("a.txt", "", "its ending is none of"),
    ],
)
def test_a_broken_file_is_told_in_a_sentence_and_nothing_is_imported(town, command, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = command("import", path)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert held(town) == {}


def test_a_missing_file_and_an_unknown_ending_are_told(town, command, tmp_path):
    assert "there is no such file" in command("import", tmp_path / "none.csv")[2]
    assert "end it in .json" in command("export", tmp_path / "a.xls")[2]


def test_an_entry_that_is_no_object_is_told(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"annotations": [7, {"osm_id": 1}, {"osm_id": True, "existed": True}]}), encoding="utf-8"
    )
    found = read_file(path)
    assert found.entries == []
    assert [problem.partition(": row ")[2] for problem in found.problems] == [
        "1: 7 holds no keys; write osm_id and existed", "2: existed is missing; add it",
        "3: osm_id is True; write a whole number of 1 or more",
    ]  # fmt: skip


def test_stats_name_people_agreement_and_disputes_and_export_what_holds(town, command, tmp_path):
    store = AnnotationStore.of(town)
    for number, (ann, bob) in enumerate(zip("EENN", "EENE", strict=True), 1):
        for name, letter in (("ann", ann), ("bob", bob)):
            store.save(Judgement(f"way/{number}", {"E": "existed", "N": "not_existed"}[letter], name))
    _, out, _ = command("stats")
    assert out.startswith("4 buildings: 3 existed, 1 not existed, 0 unsure\n")
    assert "ann and bob: 3 of 4 alike, Cohen's kappa 0.50" in out
    assert "way/4: ann says not_existed, bob says existed" in out
    told = json.loads(command("stats", "--json")[1])
    assert told["people"] == {"ann": 4, "bob": 4}
    assert told["conflicts"] == ["way/4"]
    assert told["not_applied"] == 8
    assert command("undo", "bob")[1].startswith("way/4: existed by bob of ")
    assert command("export", tmp_path / "a.json")[1].endswith(": 4 of 4 annotations\n")
    assert held(town)["way/4"] == "not_existed"
    entries = {entry.building_id: entry.verdict for entry in read_file(tmp_path / "a.json").entries}
    assert entries == held(town)


def test_who_has_judged_nothing_has_nothing_to_undo(command):
    code, _, err = command("undo", "nobody")
    assert code == 2
    assert "'nobody' has judged nothing that could be undone" in err


def test_a_building_that_the_map_no_longer_has_stays_in_tables_and_is_left_out_of_maps(town, tmp_path):
    store = AnnotationStore.of(town)
    store.save(Judgement("way/1", "existed", "ann"))
    store.save(Judgement("way/4711", "existed", "ann"))
    entries = [as_annotation(event) for event in store.get().values()]
    assert write_file(tmp_path / "a.csv", entries, town) == 2
    assert write_file(tmp_path / "a.geojson", entries, town) == 1
    with pytest.raises(AnnotationsError, match="which says what to write"):
        write_file(tmp_path / "a.shp", entries, town)
