"""Readers of logs: from any byte, in any pieces, the text is the same, and bars are what they last showed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from historymap_lib.jobs import logs

WORDS = st.one_of(
    st.binary(min_size=1, max_size=6).map(lambda word: word.replace(b"\r", b"-").replace(b"\n", b"+")),
    st.text("ab äœ漢🏠", min_size=1, max_size=6).map(str.encode),
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b""])
CHARACTER = 4
"""Bytes of the longest character of UTF-8: fewer are never read at once."""


def printed(ends=ENDS) -> st.SearchStrategy[bytes]:
    """What programs print: words with line ends, carriage returns or nothing between them."""
    return st.lists(st.tuples(WORDS, ends).map(b"".join), max_size=12).map(b"".join)


def expected(data: bytes) -> str:
    """What a terminal shows in the end, line by line."""
    lines = [line.rstrip(b"\r").split(b"\r")[-1] for line in data.split(b"\n")]
    return "\n".join(line.decode(errors="replace") for line in lines)


def collect(path, limit, offset=0) -> str:
    """Read to the end as a follower does."""
    texts, live = [], ""
    while True:
        chunk = logs.read(path, offset, limit)
        texts.append(chunk.text)
        live = chunk.live
        if chunk.offset == offset:
            return "".join([*texts, live])
        offset = chunk.offset


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("logs") / "1.log"


@given(data=printed(), more=st.integers(1, 50))
def test_in_pieces_it_reads_as_at_once(log, data, more):
    log.write_bytes(data)
    longest = max(len(line) for line in data.split(b"\n")) + 1
    assert collect(log, longest + more) == expected(data)
    assert collect(log, logs.LIMIT) == expected(data)


@given(data=printed(st.sampled_from([b"\n", b""])), limit=st.integers(CHARACTER, 40))
def test_lines_longer_than_a_piece_come_whole(log, data, limit):
    log.write_bytes(data)
    assert collect(log, limit) == expected(data)


@given(data=printed(), limit=st.integers(CHARACTER, 40))
def test_no_piece_of_a_long_line_holds_a_carriage_return_or_loses_what_shows(log, data, limit):
    log.write_bytes(data)
    found = collect(log, limit)
    assert "\r" not in found
    for line, shown in zip(found.split("\n"), expected(data).split("\n"), strict=True):
        assert line.endswith(shown)


@given(parts=st.lists(printed(), max_size=6))
def test_while_it_grows_it_reads_as_afterwards(log, parts):
    log.write_bytes(b"")
    offset, texts, live = 0, [], ""
    for part in parts:
        with log.open("ab") as file:
            file.write(part)
        chunk = logs.read(log, offset)
        texts.append(chunk.text)
        live, offset = chunk.live, chunk.offset
    assert "".join([*texts, live]) == expected(b"".join(parts))


@given(data=printed(), lines=st.integers(1, 20))
def test_the_tail_is_the_end_of_the_whole(log, data, lines):
    log.write_bytes(data)
    whole = expected(data).split("\n")
    whole = whole[:-1] if whole[-1] == "" else whole
    assert logs.tail(log, lines) == "\n".join(whole[-lines:])


@pytest.mark.parametrize(
    ("data", "text", "live"),
    [
        pytest.param(b"", "", "", id="nothing"),
        pytest.param(b"one\ntwo", "one\n", "two", id="a line that is being written"),
        pytest.param(b"\r 10%\r 50%\r100%\nend\n", "100%\nend\n", "", id="a bar"),
        pytest.param(b"\r 10%\r 50%", "", " 50%", id="a bar that moves"),
        pytest.param(b" 10%\r 50%\r", "", " 50%", id="a bar that goes back after each state"),
        pytest.param(b"one\r\ntwo\r\n", "one\ntwo\n", "", id="ends of Windows"),
        pytest.param(b"\xff\xfe no text\n", "\ufffd\ufffd no text\n", "", id="no UTF-8"),
        pytest.param("a\u2028b\x0cc\n".encode(), "a\u2028b\x0cc\n", "", id="other separators stay in the line"),
        pytest.param(b"\x1b[31mred\x1b[0m\0\n", "\x1b[31mred\x1b[0m\0\n", "", id="escapes and zeros"),
    ],
)
def test_what_a_reader_gets(tmp_path, data, text, live):
    path = tmp_path / "1.log"
    path.write_bytes(data)
    chunk = logs.read(path)
    assert (chunk.text, chunk.live) == (text, live)
    assert chunk.offset == data.rfind(b"\n") + 1


def test_a_missing_log_is_empty_and_the_place_in_it_stays(tmp_path):
    assert logs.read(tmp_path / "none.log", 7) == logs.Chunk("", "", 7)
    assert logs.tail(tmp_path / "none.log", 3) == ""


def test_beyond_the_end_there_is_nothing(tmp_path):
    path = tmp_path / "1.log"
    path.write_bytes(b"one\n")
    assert logs.read(path, 1000) == logs.Chunk("", "", 1000)


def test_a_line_of_ten_megabytes_comes_in_pieces_and_whole(tmp_path):
    path = tmp_path / "1.log"
    line = "äœ漢🏠x" * 900_000
    path.write_text(f"before\n{line}\nafter\n", encoding="utf-8")
    assert path.stat().st_size > 10_000_000
    assert len(logs.read(path, 7).text.encode()) <= logs.LIMIT
    assert collect(path, logs.LIMIT) == f"before\n{line}\nafter\n"


def test_a_bar_that_has_been_redrawn_a_hundred_thousand_times_is_what_it_last_showed(tmp_path):
    path = tmp_path / "1.log"
    path.write_bytes(b"".join(b"\r%6d of 100000" % number for number in range(100_001)))
    assert path.stat().st_size > logs.LIMIT
    assert collect(path, logs.LIMIT) == "100000 of 100000"


def test_the_tail_of_a_large_log_shows_the_line_being_written(tmp_path):
    path = tmp_path / "1.log"
    path.write_bytes(b"a line\n" * 200_000 + b"epoch 3\r 10%\r 50%")
    assert path.stat().st_size > logs.LIMIT
    assert logs.tail(path, 2) == "a line\n 50%"


def test_the_tail_counts_lines_as_a_terminal_does(tmp_path):
    path = tmp_path / "1.log"
    path.write_text("one\ntwo\x0cthree\u2028four\n", encoding="utf-8")
    assert logs.tail(path, 1) == "two\x0cthree\u2028four"
