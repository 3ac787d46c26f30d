"""What a person is told of an error: one sentence, in a terminal as in a notebook."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from rasterio.errors import RasterioIOError

from historymap_lib import errors
from historymap_lib.errors import HistorymapError, StepError, sentence_of


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StepError("no tiles; make some"), "no tiles; make some"),
        (OSError(28, "No space left", "/a"), "/a: No space left; make room or give access, and run it again"),
        (OSError(28, "No space left"), "No space left; make room or give access, and run it again"),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied; make room or give access"),
        (RasterioIOError("write failed"), "a raster cannot be written (write failed); make room, and run it again"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_person_can_put_right_is_a_sentence(error, sentence):
    assert sentence_of(error).startswith(sentence)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyError("x"), OSError("without a number"), MemoryError()])
def test_a_bug_is_none(error):
    assert sentence_of(error) is None


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HistorymapError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_notebook_shows_an_error_of_ours_as_the_sentence_alone(capsys, kind):
    shell = InteractiveShell()
    shell.user_ns["fail"] = kind("the photo is not there; bring it")
    done = shell.run_cell("raise fail")
    assert isinstance(done.error_in_exec, kind)
    assert capsys.readouterr().out == "historymap: the photo is not there; bring it\n"
