"""The errors of historymap: one base class, and a message that ends with what to do.

Every message is one sentence (or two) that names what is wrong, the file or value it is wrong in, and the way out,
since it is shown to people as it stands. Bugs are not wrapped: they keep their traceback.
"""

from __future__ import annotations

from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioIOError

LOGIN = "you are not logged in; give the token of the server"
"""What a server says, and its client understands."""


class HistorymapError(Exception):
    """Anything a user can put right; the command line prints it and exits with 2."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints of it: the sentence, as everywhere, and no traceback."""
        return [f"historymap: {self}"]


class SettingsError(HistorymapError):
    """The YAML file of a case is missing, unreadable or wrong."""


class PhotoError(HistorymapError):
    """The photo cannot be opened, read or placed on the grid."""


class FootprintsError(HistorymapError):
    """The footprints cannot be read, or are not buildings with ids."""


class SourceError(HistorymapError):
    """A server does not give what is asked of it."""


class TrainingDataError(HistorymapError):
    """Training tiles are missing, damaged or cannot be made."""


class ModelError(HistorymapError):
    """A model cannot be built, trained, loaded or run."""


class VerificationError(HistorymapError):
    """Buildings cannot be judged."""


class AnnotationsError(HistorymapError):
    """Annotations cannot be read, stored or applied."""


class EvaluationError(HistorymapError):
    """Verdicts cannot be measured against a truth table."""


class DisplayError(HistorymapError):
    """The photo or the probabilities cannot be shown on a web map."""


class StepError(HistorymapError):
    """A step cannot run, for instance because the step before has not."""


class JobsError(HistorymapError):
    """A job cannot be queued, found or run."""


class ServerError(HistorymapError):
    """A server of historymap cannot be started or reached, or refuses what is asked of it."""


class UnavailableError(HistorymapError):
    """It cannot be done just now, for want of room or because somebody else is at it; later it can."""


class UnknownError(HistorymapError):
    """There is no such job or building."""


def sentence_of(error: Exception) -> str | None:
    """Return what to tell a person of an error, or None where it is none that a person can put right."""
    if isinstance(error, HistorymapError):
        return str(error)
    if isinstance(error, (RasterioIOError, CPLE_BaseError)):  # as GDAL writes; reading is guarded where it is done
        return f"a raster cannot be written ({error.__cause__ or error}); make room, and run it again"
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room or give access, and run it again"
    return None
