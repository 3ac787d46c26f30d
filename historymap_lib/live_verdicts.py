"""What people say, learned at once: verdicts on all buildings of a case before anything is applied.

`verify` keeps its last layer (`last_layer`) beside the verdicts. The layer needs no photo and nothing to be trained to
tell what the judgements of people mean for all other buildings: `LiveVerdicts` asks it, and finds what `verify` would
find if it were run with the same judgements.

    live = LiveVerdicts.of(project)
    table = live.after({"way/123": True, "way/456": False})
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from historymap_lib import artifacts
from historymap_lib.errors import VerificationError
from historymap_lib.last_layer import LastLayer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.project import Project

DIGITS = 4
"""Of a probability, as the verdicts have it."""
ASKED = 10_000
"""Among so many buildings, drawn at random from more, the ones that teach most are looked for: that takes 0.1 s."""
NAMES = "building_id", "verdicts"
"""What is in the file beside the layer: ids of its rows, and the fingerprint of the verdicts it belongs to."""


@dataclass(frozen=True)
class CaseLayer:
    """The last layer of a case.

    Attributes:
        building_id: of its rows (n; str).
        layer: as precise as it is when it is read from a file, so that what it says is the same to the last digit.

    """

    building_id: NDArray[np.str_]
    layer: LastLayer

    @classmethod
    def of(cls, building_id: NDArray[np.str_], layer: LastLayer) -> Self:
        """Return the layer with the precision of a file."""
        return cls(building_id, replace(layer, directions=layer.directions.astype(np.float32).astype(np.float64)))

    def write(self, path: Path, verdicts: Path) -> None:
        """Write it, whole or not at all, as that of a file of verdicts with the content of `verdicts`."""
        content = dict(zip(NAMES, (self.building_id, np.array(artifacts.fingerprint(verdicts))), strict=True))
        with artifacts.replacing(path) as partial:
            self.layer.save(partial)
            with zipfile.ZipFile(partial, "a", zipfile.ZIP_DEFLATED) as archive:
                for name, values in content.items():
                    with archive.open(f"{name}.npy", "w") as stream:
                        np.lib.format.write_array(stream, values, allow_pickle=False)

    @classmethod
    def read(cls, path: Path, verdicts: Path) -> Self | None:
        """Return the layer of a file of verdicts; None where there is none, where it is damaged or that of others."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                building_id, made_for = (content[name] for name in NAMES)
            if str(made_for) != artifacts.fingerprint(verdicts):
                return None
            layer = LastLayer.load(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, VerificationError):
            return None  # people judge as they did before there was such a file
        return cls(building_id, layer) if len(building_id) == len(layer.prior) else None


def layer_file(project: Project) -> Path:
    """Return where the last layer of a case lies."""
    return project.paths.predictions / "last_layer.npz"


class LiveVerdicts:
    """The verdicts of a case as they follow from what people say; one thread may ask at a time.

    Attributes:
        building_id: the buildings that it can judge: those of which the photo shows enough (n; str).

    """

    def __init__(self, kept: CaseLayer, not_existed_to: float, existed_from: float) -> None:
        """Take a layer, and the thresholds of the verdicts."""
        self.building_id = kept.building_id
        self._row = {name: row for row, name in enumerate(kept.building_id.tolist())}
        self._low, self._high = not_existed_to, existed_from
        # never asked itself, so each answer starts from nothing, as that of verify does, whatever was asked before
        self._kept = kept.layer
        self._now = kept.layer.update(kept.layer.said)
        self._last = self._probability()

    @classmethod
    def of(cls, project: Project) -> Self | None:
        """Return those of a case; None where its verdicts have been made without a last layer."""
        kept = CaseLayer.read(layer_file(project), project.paths.verified)
        settings = project.verification
        return None if kept is None else cls(kept, settings.not_existed_to, settings.existed_from)

    def after(self, judgements: Mapping[str, bool]) -> pd.DataFrame:
        """Return what holds of each building after all that people say now.

        Args:
            judgements: by building id whether it existed; without those that people are unsure of. One that another
                building has replaced did not exist.

        Returns:
            A row for each of `building_id`: `probability` that it existed (float64, 4 digits), `verdict` (existed,
            not_existed, unsure) and `changed` (bool): whether either differs from the last time, and the first time
            from the verdicts of the file.

        """
        before, said_before = self._last, self._now.said
        self._now = self._kept.update(self._said(judgements))
        probability = self._last = self._probability()
        said = self._now.said
        sides = [said == 1, said == 0, probability >= self._high, probability <= self._low]
        verdict = np.select(sides, ["existed", "not_existed", "existed", "not_existed"], "unsure")
        changed = (probability != before) | ~_same(said, said_before)
        return pd.DataFrame({"probability": probability, "verdict": verdict, "changed": changed})

    def new_in(self, judgements: Mapping[str, bool]) -> int:
        """Return of how many buildings people say something else than when the verdicts were made."""
        return int((~_same(self._said(judgements), self._kept.said)).sum())

    def teaching_order(self, count: int) -> NDArray[np.int64]:
        """Return the rows of the buildings that teach most after those of the last time, the first one first."""
        now = self._now
        judged = ~np.isnan(now.said)
        others = np.flatnonzero(~judged)
        if len(others) > ASKED:
            others = np.random.default_rng(0).choice(others, ASKED, replace=False)
        rows = np.sort(np.concatenate([np.flatnonzero(judged), others]))
        some = LastLayer(now.prior[rows], now.directions[rows], now.said[rows], now.shares)
        found: NDArray[np.int64] = rows[some.teaching_order(count)]
        return found

    def _said(self, judgements: Mapping[str, bool]) -> NDArray[np.float64]:
        said = np.full(len(self.building_id), np.nan)
        for name, existed in judgements.items():
            row = self._row.get(name)
            if row is not None:
                said[row] = float(existed)
        return said

    def _probability(self) -> NDArray[np.float64]:
        return self._now.probability.round(DIGITS)


def _same(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (one == other) | (np.isnan(one) & np.isnan(other))
    return same
