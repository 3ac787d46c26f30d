"""The sections of a case's YAML: every key, its type, its default and its bounds."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pyproj import CRS
from pyproj.exceptions import CRSError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
AnyPath = Annotated[Path, Field(strict=False)]


def _address(value: str) -> str:
    if not re.match(r"https?://|\$\{\w+\}", value):
        raise ValueError(f"{value!r} is no address of a server; it begins with https:// or http://")
    if "@" in value.split("://", 1)[-1].split("/", 1)[0]:
        raise ValueError("the address holds a login; give it as access.user and access.password: ${NAME}")
    return value


Address = Annotated[str, AfterValidator(_address)]
"""Of a server."""
Shift = Annotated[tuple[float, float], Field(strict=False)]
"""Metres to the east and to the north."""
BOUNDS = 4
HALF = 180
"""Degrees to the east, and to the west."""
MIN_WIDTHS = 2
DIVISOR = 32
"""Tiles and crops are multiples of this: the deepest network halves its input five times."""


class Section(BaseModel):
    """A section of the YAML: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="strings")


class Area(Section):
    """Where to work: a projected CRS in metres, and the bounds (west, south, east, north) in `bounds_crs`."""

    crs: str
    bounds: list[float] | None = None  # none: the whole photo
    bounds_crs: str = "EPSG:4326"

    @field_validator("crs")
    @classmethod
    def _in_metres(cls, value: str) -> str:
        crs = known_crs(value)
        units = {axis.unit_name for axis in crs.axis_info[:2]}
        if not crs.is_projected or units != {"metre"}:
            raise ValueError(
                f"{value} ({crs.name}) counts in {' and '.join(sorted(units)) or 'nothing'}; "
                "name a projected CRS in metres, for instance the UTM zone of the area"
            )
        return value

    @field_validator("bounds_crs")
    @classmethod
    def _known(cls, value: str) -> str:
        known_crs(value)
        return value

    @field_validator("bounds")
    @classmethod
    def _west_of_east(cls, value: list[float] | None) -> list[float] | None:
        if value is not None:
            if len(value) != BOUNDS:
                raise ValueError(f"{value} has {len(value)} numbers; give four: west, south, east, north")
            west, south, east, north = value
            if not (west < east and south < north):
                raise ValueError(f"{value} is empty; give west, south, east, north with west < east and south < north")
        return value


class Access(Section):
    """How a server wants to be asked. `${NAME}` stands for an environment variable: no secret is written down."""

    headers: dict[str, str] = {}
    parameters: dict[str, str] = {}  # further ones of the query, such as a key
    user: str | None = None
    password: str | None = None
    # the others make no difference to what comes, and are in no manifest
    ca_bundle: AnyPath | None = Field(default=None, exclude=True)  # certificates of who made the server's
    insecure: bool = Field(default=False, exclude=True)  # takes any: who is on the way can read and change what comes
    connections: Annotated[int, Field(ge=1, le=32)] = Field(default=6, exclude=True)  # requests at once
    timeout: Positive = Field(default=60.0, exclude=True)  # seconds to wait for the next bytes
    patience: Positive = Field(default=300.0, exclude=True)  # seconds in all, pauses too, until it is given up

    def anonymous(self) -> Access:
        """Return the same without what tells who asks."""
        return self.model_copy(update={"headers": {}, "parameters": {}, "user": None, "password": None})


class FilePhoto(Section):
    """A photo in one raster file or several (a mosaic; where they overlap the first listed wins)."""

    source: Literal["file"] = "file"
    path: str | list[str]
    name: str | None = None
    year: int | None = None
    offset: Shift | None = None  # from the map to where the photo shows it, where a person has measured that
    nodata: Annotated[float, Field(allow_inf_nan=True)] | None = None  # none: as the file says
    stretch: tuple[Share, Share] = Field((0.01, 0.99), strict=False)  # of the grey values, for more than 8 bits

    @field_validator("path", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{value!r} names no file; give the path of one, or a list of paths")
        return value

    @field_validator("stretch")
    @classmethod
    def _dark_to_bright(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"{list(value)} is not in order; give the darker share first, such as [0.01, 0.99]")
        return value

    @property
    def paths(self) -> list[str]:
        """Always a list."""
        return [self.path] if isinstance(self.path, str) else self.path


class ServicePhoto(Section):
    """A photo that a server gives in pictures. `${NAME}` stands for an environment variable here too."""

    url: Address
    access: Access = Access()
    blank: Literal["keep", "white", "black", "both"] = "keep"  # a picture that is all of this is no data
    name: str | None = None
    year: int | None = None
    offset: Shift | None = None  # as for a file


class WmsPhoto(ServicePhoto):
    """A photo in a layer of a Web Map Service."""

    source: Literal["wms"]
    layer: str
    version: Literal["1.1.1", "1.3.0"] = "1.3.0"
    styles: str = ""
    format: Literal["image/png", "image/jpeg", "image/tiff"] = "image/png"
    crs: str | None = None  # none: that of the case if the server offers it, else EPSG:3857, else EPSG:4326

    @field_validator("crs")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            known_crs(value)
        return value


class WmtsPhoto(ServicePhoto):
    """A photo in a layer of a Web Map Tile Service; `url` is that of its capabilities."""

    source: Literal["wmts"]
    layer: str
    matrix_set: str | None = None  # none: one in the CRS of the case, else in EPSG:3857, else any
    style: str | None = None  # none: the default of the layer
    format: Literal["image/png", "image/jpeg"] | None = None  # none: PNG if offered


class XyzPhoto(ServicePhoto):
    """A photo in tiles of the web map; `url` holds {z}, {x} and {y}, or {-y} where rows count from the south (TMS)."""

    source: Literal["xyz"]
    zoom: Annotated[int, Field(ge=0, le=26)] | None = None  # none: by tiles.resolution
    max_zoom: Annotated[int, Field(ge=0, le=26)] = 22  # what the server has at most, where zoom is not given
    size: Literal[256, 512, 1024] = 256  # pixels along a tile
    bounds: list[float] | None = None  # west, south, east, north in degrees; none: wherever the area is

    @field_validator("url")
    @classmethod
    def _template(cls, value: str) -> str:
        if not all(part in value for part in ("{z}", "{x}")) or ("{y}" in value) == ("{-y}" in value):
            raise ValueError(f"{value!r} is no address of tiles; it holds {{z}}, {{x}}, and {{y}} or {{-y}}")
        others = set(re.findall(r"(?<!\$)\{[^{}]*\}", value)) - {"{z}", "{x}", "{y}", "{-y}"}
        if others:
            raise ValueError(f"{value!r} holds {min(others)}; write what stands there, one of its servers for {{s}}")
        return value

    @field_validator("bounds")
    @classmethod
    def _in_degrees(cls, value: list[float] | None) -> list[float] | None:
        if value is None:
            return None
        west, south, east, north = value if len(value) == BOUNDS else (0, 0, 0, 0)
        if not (-HALF <= west < east <= HALF and -HALF <= 2 * south < 2 * north <= HALF):
            raise ValueError(f"{value} are no bounds; give west, south, east, north in degrees")
        return value


class FileFootprints(Section):
    """Today's buildings in a vector file; `id_field` names the column of ids where it is not the usual one.

    A path that is an address is fetched once, and kept.
    """

    source: Literal["file"] = "file"
    path: str
    access: Access = Access()
    layer: str | None = None
    id_field: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the path is an address."""
        return self.path.startswith(("https://", "http://", "${"))

    @property
    def suffix(self) -> str:
        """The ending of the path, by which the format is known: `.osm.pbf`, say."""
        name = PurePosixPath(self.path.split("?", 1)[0]).name
        return ".osm.pbf" if name.endswith(".osm.pbf") else PurePosixPath(name).suffix or ".geojson"


class OverpassFootprints(Section):
    """Today's buildings from OpenStreetMap by an Overpass server, or by a mirror where that does not answer."""

    source: Literal["overpass"]
    url: Address = "https://overpass-api.de/api"
    mirrors: list[Address] = []
    access: Access = Access()  # of the first alone: no mirror is told a secret
    timeout: Annotated[float, Field(ge=1, le=3600)] = 180.0  # seconds that the server may take for a query
    largest: Positive = 100.0  # square kilometres of a query; a larger area is asked for in parts

    @property
    def path(self) -> str:
        """The address, as a file has it."""
        return self.url

    @property
    def is_remote(self) -> bool:
        """Always."""
        return True

    @property
    def suffix(self) -> str:
        """The ending of the snapshot: it is an extract in OSM XML."""
        return ".osm"


class Tiles(Section):
    """Training tiles: `size` in pixels, `resolution` in metres a pixel, split by blocks of `block` x `block` tiles."""

    size: Annotated[int, Field(ge=DIVISOR, multiple_of=DIVISOR)] = 512
    resolution: Positive = 0.5
    count: Count = 50
    block: Count = 1
    folds: Annotated[int, Field(ge=2, le=10)] = 2
    test: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # share of blocks that no training ever sees
    min_valid: Share = 0.25  # a tile with less of the photo on it is skipped


class Model(Section):
    """The U-Net: either a compact one by `widths`, or one with the encoder resnet18."""

    architecture: Literal["unet"] = "unet"
    encoder: Literal["widths", "resnet18"] = "widths"
    widths: list[Count] = [16, 32, 64, 128]
    stride: Literal[1, 2] = 2  # of the compact network: it works at this many pixels a cell
    pretrained: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.encoder == "widths" and self.pretrained:
            raise ValueError("pretrained: true goes with encoder: resnet18 only; nobody publishes weights for widths")
        most = DIVISOR.bit_length() - (self.stride - 1)  # a stride halves once more
        if not MIN_WIDTHS <= len(self.widths) <= most:
            raise ValueError(f"widths {self.widths} has {len(self.widths)} levels; give {MIN_WIDTHS} to {most}")
        return self


class Training(Section):
    """How the model learns; an epoch sees every training tile once, cut into crops."""

    epochs: Count = 10  # if not given, 80 for any U-Net but the usual one, since that begins from nothing
    batch_size: Count = 8
    crop: Annotated[int, Field(ge=DIVISOR, multiple_of=DIVISOR)] = 256
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    patience: Count = 40  # epochs without a better validation IoU before stopping
    rounds: Annotated[int, Field(ge=1, le=3)] = 1  # after a round, labels that the model denies are left out
    outline_steps: Annotated[int, Field(ge=0)] = 300  # of the footprint network, a member and round; 0: as shipped
    outline_rounds: Annotated[int, Field(ge=1, le=5)] = 2  # after a round, each footprint counts as what it seems to be
    seed: int = 1937
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class Prediction(Section):
    """How the photo is predicted; windows of `tiles.size` overlap by `overlap` of their width and are blended."""

    overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    batch_size: Count = 4


class Verification(Section):
    """When a probability is a verdict; what lies between the two is unsure."""

    existed_from: Share = 0.9
    not_existed_to: Share = 0.1
    min_coverage: Share = 0.5  # of the footprint on the photo; with less it is no_coverage
    max_offset: Annotated[float, Field(ge=0, le=20)] = 3.0  # metres off the photo, for predictions without outlines

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.not_existed_to >= self.existed_from:
            raise ValueError(f"not_existed_to {self.not_existed_to} must be less than existed_from {self.existed_from}")
        return self


class JobSettings(Section):
    """How background jobs are run."""

    max_concurrent: Count = 1  # jobs at a time; steps that touch the same files never run side by side
    grace: Positive = 10.0  # seconds between asking a job to end and making it
    idle: Positive = 30.0  # seconds without a job after which the worker ends
    keep: Count = 100  # ended jobs that are remembered, with their logs
    notify: list[str] = []  # a command for when a job ends; {id}, {name}, {state}, {case} and {error} are filled in


class Paths(Section):
    """Where things lie; `{name}` stands for the name of the case. Absolute after `load`."""

    root: AnyPath = Path()
    photo: AnyPath = Path("data/{name}/photo.tif")  # the copy of a server's photo
    footprints: AnyPath = Path("data/{name}/footprints.osm")  # the snapshot of a server's buildings
    training: AnyPath = Path("data/{name}/training")
    corrected: AnyPath = Path("data/{name}/training_corrected")
    models: AnyPath = Path("models/{name}")
    predictions: AnyPath = Path("data/{name}/predictions")
    verified: AnyPath = Path("data/{name}/buildings_verified.geojson")
    annotations: AnyPath = Path("data/{name}/annotations.json")
    offsets: AnyPath = Path("data/{name}/offsets.json")  # how far the photo lies from the map
    jobs: AnyPath = Path("data/jobs")  # shared by all cases of a root

    @field_validator("verified")
    @classmethod
    def _geojson(cls, value: Path) -> Path:
        if value.suffix != ".geojson":
            raise ValueError(f"{value} must end in .geojson; the GeoPackage is written beside it")
        return value

    def within(self, folder: Path, name: str) -> Paths:
        """Return the same with absolute paths: the root below `folder`, the others below the root."""
        named = {key: expanded(str(value).replace("{name}", name)) for key, value in self.model_dump().items()}
        root = (folder / named.pop("root")).resolve()
        return Paths.model_validate({"root": root} | {key: root / value for key, value in named.items()})

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.models / "best_model.pth"

    @property
    def probability(self) -> Path:
        """The probability raster."""
        return self.predictions / "probability.tif"


def expanded(path: str) -> Path:
    """Return the path with the home folder in place of `~`; where there is no such user, `~1937.tif` is a file."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises there


def known_crs(value: str) -> CRS:
    """Return the CRS of a code or a definition; ValueError where PROJ knows none."""
    try:
        return CRS.from_user_input(value)
    except CRSError as error:
        raise ValueError(f"{value!r} is no CRS that PROJ knows; give a code such as EPSG:25832") from error
