"""What a terminal, or a file that a night has left, shows of a job."""

from __future__ import annotations

import pytest

from historymap_lib import cli_screen

UPDATES = [("", "1 %"), ("", "2 %"), ("half\n", ""), ("", "3 %"), ("done\n", "")]


@pytest.mark.parametrize(("quiet", "said"), [(3600, "half\ndone\n"), (-1, "1 %\n2 %\nhalf\n3 %\ndone\n")])
def test_where_no_terminal_looks_a_line_that_moves_is_printed_now_and_then(capsys, monkeypatch, quiet, said):
    monkeypatch.setattr(cli_screen, "QUIET", quiet)
    cli_screen.show(UPDATES)
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("live", ["", "half a line"])
def test_the_last_word_ends_its_line(capsys, live):
    cli_screen.show([("first\n", ""), ("", live)])
    assert capsys.readouterr().out == "first\n" + (f"{live}\n" if live else "")
