"""The first look: what the weights that come with the package make of each building, before anything is trained.

`ml.first_look` writes it, `verify` judges by it where it is asked to be quick.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from historymap_lib import artifacts
from historymap_lib.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.project import Project

NAME = "first look"
"""What people read of it, and the `model` of verdicts that were made by it."""
COLUMNS = ("probability", "coverage", "overlap")


def file(project: Project) -> Path:
    """Return where the evidence of a first look lies (NumPy's .npz)."""
    return project.paths.predictions / "first_look.npz"


def write(path: Path, ids: Sequence[str], table: pd.DataFrame) -> None:
    """Write the evidence, whole or not at all.

    Args:
        path: where to.
        ids: building ids.
        table: a row each: `probability` that it existed, `coverage` (share of the footprint that the photo shows),
            `overlap` (share of it under which a building is seen); float, 0 to 1, nan where nothing is known.

    """
    values = {name: table[name].to_numpy(np.float64) for name in COLUMNS}
    with artifacts.replacing(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, building_id=np.array(list(ids), np.str_), **values)  # type: ignore[arg-type]


def read(path: Path, ids: Sequence[str]) -> pd.DataFrame:
    """Return the evidence for buildings, in this order; coverage 0 for those that were not looked at.

    Raises:
        VerificationError: it cannot be read.

    """
    try:
        with np.load(path, allow_pickle=False) as told:
            found: dict[str, NDArray[Any]] = {name: told[name] for name in ("building_id", *COLUMNS)}
        table = pd.DataFrame(found).set_index("building_id").astype(np.float64)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(f"{path}: is damaged ({error}); remove it, and run verify --quick again") from error
    table = table[~table.index.duplicated()].reindex(list(ids)).reset_index(drop=True)
    table["coverage"] = table["coverage"].fillna(0.0)
    return table
