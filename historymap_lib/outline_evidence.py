"""What a footprint network saw under outlines: the file between the network, which needs torch, and `verify`.

It holds three kinds of outlines: today's *footprints*, *phantoms* (`phantoms`), under which nothing stands, and
*misfits* (`misfits`), which lie over buildings that they do not fit; all of them where the photo shows that place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import shapely

from historymap_lib import artifacts
from historymap_lib.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.project import Project

KINDS = ("footprints", "phantoms", "misfits")


@dataclass(frozen=True)
class Looks:
    """What was seen under outlines of one kind.

    Attributes:
        shapes: the outlines where they were looked for (n; shapely, CRS of the case).
        logits: of "a building fits this outline", by each network that was asked (n x networks; float32).
        embedding: what the last of them saw (n x numbers; float32).
        coverage: share of the outline on the photo (n; float32, 0 to 1).
        tone: mean and standard deviation of the grey values around (n x 2; float32, 0 to 255).
        host: index of the footprint that lent its shape, or lies underneath (n; int64); that of itself for footprints.

    """

    shapes: NDArray[Any]
    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]
    coverage: NDArray[np.float32]
    tone: NDArray[np.float32]
    host: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shapes)

    def take(self, which: NDArray[Any]) -> Looks:
        """Return some of them, by index or by mask."""
        return Looks(*(getattr(self, name)[which] for name in self.__annotations__))


@dataclass(frozen=True)
class OutlineEvidence:
    """What was seen of a case.

    Attributes:
        building_id: of the footprints (n; str).
        shift: from where the map has each footprint to where it was looked for (n x 2; east, north in metres).
        fold: the fold of each footprint, -1 where the network has learned from no part of the case.
        footprints: see `Looks`.
        phantoms: see `Looks`.
        misfits: see `Looks`.
        made_from: what it is up to date with, as text; empty where nobody asks.

    """

    building_id: NDArray[np.str_]
    shift: NDArray[np.float64]
    fold: NDArray[np.int64]
    footprints: Looks
    phantoms: Looks
    misfits: Looks
    made_from: str = ""

    def write(self, path: Path) -> None:
        """Write it (NumPy's .npz), whole or not at all."""
        content: dict[str, Any] = {"building_id": self.building_id, "shift": self.shift, "fold": self.fold}
        content["made_from"] = np.array(self.made_from)
        for kind in KINDS:
            looks: Looks = getattr(self, kind)
            outlines = shapely.to_wkb(looks.shapes)
            content[f"{kind}_wkb"] = np.frombuffer(b"".join(outlines), np.uint8)
            content[f"{kind}_length"] = np.array([len(one) for one in outlines], np.int64)
            content[f"{kind}_embedding"] = looks.embedding.astype(np.float16)
            content |= {f"{kind}_{name}": getattr(looks, name) for name in ("logits", "coverage", "tone", "host")}
        path.parent.mkdir(parents=True, exist_ok=True)
        with artifacts.replacing(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **content)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it.

        Raises:
            VerificationError: it is missing or damaged.

        """
        try:
            # opened here, since NumPy leaves open what it cannot read
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                footprints, phantoms, misfits = (_looks(content, kind) for kind in KINDS)
                made_from = str(content["made_from"]) if "made_from" in content else ""
                places = content["building_id"], content["shift"], content["fold"]
                return cls(*places, footprints, phantoms, misfits, made_from)
        except Exception as error:  # a damaged file can make zipfile and NumPy raise nearly anything
            raise VerificationError(f"{path}: cannot be read ({error}); run what makes it again") from error

    def beside(self, first: OutlineEvidence) -> OutlineEvidence:
        """Return this with the logits of a first look at the same outlines as first columns."""
        kinds = {
            kind: replace(mine, logits=np.concatenate([other.logits, mine.logits], axis=1))
            for kind in KINDS
            for mine, other in [(getattr(self, kind), getattr(first, kind))]
        }
        return replace(self, **kinds)

    def of(self, building_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each building, -1 where it was not looked at."""
        rows = {name: row for row, name in enumerate(self.building_id.tolist())}
        return np.array([rows.get(name, -1) for name in building_ids], np.int64)


def trained_file(project: Project) -> Path:
    """Return where the evidence of the model of a case lies."""
    return project.paths.predictions / "outlines.npz"


def _looks(content: Any, kind: str) -> Looks:
    ends = np.cumsum(content[f"{kind}_length"])
    outlines = np.split(content[f"{kind}_wkb"], ends[:-1]) if len(ends) else []
    shapes = np.array(shapely.from_wkb([one.tobytes() for one in outlines]), dtype=object)
    rest = [content[f"{kind}_{name}"] for name in ("logits", "embedding", "coverage", "tone", "host")]
    rest[1] = rest[1].astype(np.float32)
    return Looks(shapes, *rest)
