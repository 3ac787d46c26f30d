"""One YAML file -> one frozen, validated settings object, with every path of a case.

A case is a photo, its area and today's buildings. `load` reads its YAML; whatever is wrong in it is one sentence with
the file and the key. Relative paths are relative to `paths.root`, itself relative to the folder of the YAML file.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pyproj import CRS

from historymap_lib.errors import SettingsError
from historymap_lib.settings import (
    Area,
    FileFootprints,
    FilePhoto,
    JobSettings,
    Model,
    OverpassFootprints,
    Paths,
    Prediction,
    Section,
    Tiles,
    Training,
    Verification,
    WmsPhoto,
    WmtsPhoto,
    XyzPhoto,
    expanded,
)

CONFIG = "HISTORYMAP_CONFIG"
"""The variable that names the settings where a command or a notebook is not told."""
SAMPLE = Path("ml/config_sample.yaml")
"""The settings where that is not set either."""
EPOCHS_FROM_NOTHING = 80
"""Of a U-Net that does not begin from the weights of the package, unless others are given."""
SHOULD = {
    "model_type": "should hold keys with values, as in `key: value`",
    "model_attributes_type": "should hold keys with values, as in `key: value`",
    "path_type": "should be a path",
    "string_type": "should be text; put it in quotes",
    "too_long": "has too many values",
}
"""What pydantic says in its own words, by its type of error, in ours."""

SOURCES: dict[tuple[str, ...], type[Section]] = {
    ("photo", "file"): FilePhoto,
    ("photo", "wms"): WmsPhoto,
    ("photo", "wmts"): WmtsPhoto,
    ("photo", "xyz"): XyzPhoto,
    ("footprints", "file"): FileFootprints,
    ("footprints", "overpass"): OverpassFootprints,
}


class Project(Section):
    """A case: all settings, and every path absolute."""

    name: str
    area: Area
    photo: FilePhoto | WmsPhoto | WmtsPhoto | XyzPhoto = Field(discriminator="source")
    footprints: FileFootprints | OverpassFootprints = Field(discriminator="source")
    tiles: Tiles = Tiles()
    model: Model = Model()
    training: Training = Training()
    prediction: Prediction = Prediction()
    verification: Verification = Verification()
    jobs: JobSettings = JobSettings()
    paths: Paths = Paths()
    _file: Path = PrivateAttr(default=Path())

    @field_validator("name")
    @classmethod
    def _fit_for_paths(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(f"{value!r} is no name for files; use letters, digits, dots, dashes and underscores")
        return value

    @model_validator(mode="after")
    def _crop_in_tile(self) -> Self:
        if self.training.crop > self.tiles.size:
            raise ValueError(f"training.crop {self.training.crop} must not exceed tiles.size {self.tiles.size}")
        return self

    @model_validator(mode="after")
    def _epochs_enough(self) -> Self:
        if self.model != Model() and "epochs" not in self.training.model_fields_set:
            training = self.training.model_copy(update={"epochs": EPOCHS_FROM_NOTHING})
            object.__setattr__(self, "training", training)  # it is frozen from here on
        return self

    @property
    def file(self) -> Path:
        """The YAML file."""
        return self._file

    @property
    def crs(self) -> CRS:
        """The CRS that everything is brought into."""
        return CRS.from_user_input(self.area.crs)

    def resolve(self, path: str) -> Path:
        """Return a path of the settings as absolute, relative ones below the root."""
        return self.paths.root / expanded(path)

    @property
    def footprint_file(self) -> Path:
        """The file that the buildings are read from; the snapshot of what a server gave may not be there yet."""
        source, snapshot = self.footprints, self.paths.footprints
        if not source.is_remote:
            return self.resolve(source.path)
        return snapshot.with_suffix(source.suffix)

    def photo_name(self) -> str:
        """Return what the photo is called in verdicts and pictures."""
        photo = self.photo
        if isinstance(photo, FilePhoto):
            default = Path(photo.paths[0]).stem
        else:
            default = "photo" if isinstance(photo, XyzPhoto) else photo.layer
        return photo.name or default

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return these sections as plain JSON values, for manifests."""
        values: dict[str, Any] = json.loads(self.model_dump_json(include=set(sections)))
        return values


def load(file: str | Path) -> Project:
    """Read the YAML of a case.

    Raises:
        SettingsError: the file is missing or no YAML, or a key is unknown, missing or wrong.
    """
    file = Path(file)
    values = _read(file)
    if isinstance(values, dict):
        for section in ("photo", "footprints"):
            if isinstance(values.get(section), dict):
                values[section].setdefault("source", "file")
    try:
        project = Project.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{file}: {_sentence(error)}") from error
    project = project.model_copy(update={"paths": project.paths.within(file.resolve().parent, project.name)})
    project._file = file.resolve()  # noqa: SLF001 - its own private attribute
    return project


class _Yaml(yaml.SafeLoader):
    """YAML as people expect it: `2e-3` is a number (as in YAML 1.2), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if key.value in [other.value for other in keys[:index]]:
                problem = f"{key.value} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(file: Path) -> Any:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Yaml)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise SettingsError(f"{file}: there is no such settings file; give one with --config") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: is no text in UTF-8; give a YAML file") from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        detail = f"line {mark.line + 1}: {error.problem}" if mark else str(error).splitlines()[0]  # type: ignore[union-attr]
        raise SettingsError(f"{file}: is no valid YAML ({detail}); correct that") from error
    if values is None:
        raise SettingsError(f"{file}: is empty; write the settings of a case into it")
    return values


def _sentence(error: ValidationError) -> str:
    """Return the first error as one sentence that names the key, and count the others."""
    errors = error.errors()
    first = min(errors, key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key explains a missing one
    kind, keys, context = first["type"], [str(part) for part in first["loc"]], first.get("ctx", {})
    known = _known_keys(keys[:-1])
    if keys[0:1] in (["photo"], ["footprints"]):
        del keys[1:2]  # the source, which pydantic puts between section and key
    key = ".".join(keys) or "the file"
    value = "empty" if first["input"] is None else reprlib.repr(first["input"])
    if kind in ("extra_forbidden", "invalid_key"):
        near = difflib.get_close_matches(keys[-1], known, n=1)
        text = f"{key} is not a known key; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
    elif kind == "missing":
        text = f"{key} is missing; add it"
    elif kind == "value_error":
        text = f"{key}: {context['error']}" if keys else str(context["error"])
    elif kind == "union_tag_invalid":
        text = f"{key}.source is {context['tag']!r}, but it should be one of {context['expected_tags']}"
    else:
        text = f"{key} is {value}, but it {SHOULD.get(kind) or first['msg'].removeprefix('Input ')}"
    more = len(errors) - 1
    return text + (f" (and {more} more in this file)" if more else "")


def _known_keys(path: list[str]) -> list[str]:
    """Return the keys of a section, by its path of keys (in which the source follows `photo` and `footprints`)."""
    section: Any = SOURCES.get(tuple(path[:2])) or (Project.model_fields[path[0]].annotation if path else Project)
    return list(section.model_fields)
