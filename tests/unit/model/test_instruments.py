import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import DirectoryFull, InstrumentDirectory
from marketfeed.model.instruments import FEED, INSTRUMENT, NAME_BYTES, check_name


def two_sides(capacity: int = 4, feeds: int = 2) -> tuple[InstrumentDirectory, InstrumentDirectory]:
    """The writer's directory and a reader's over the same memory, as in two processes."""
    memory = np.zeros(capacity, INSTRUMENT), np.zeros(feeds, FEED), np.zeros(2, np.uint64)
    return InstrumentDirectory(*memory), InstrumentDirectory(*memory)


def test_ids_are_dense_from_0_and_stay() -> None:
    directory = InstrumentDirectory.on_heap(4)
    feed = directory.add_feed("sim")
    assert [directory.add(feed, symbol) for symbol in ("A", "B", "A", "C", "B")] == [0, 1, 0, 2, 1]
    assert (directory.symbols(), directory.feed_of(), len(directory)) == (["A", "B", "C"], [0, 0, 0], 3)


def test_the_same_symbol_of_two_feeds_is_two_instruments() -> None:
    directory = InstrumentDirectory.on_heap(4)
    a, b = directory.add_feed("a"), directory.add_feed("b")
    assert (a, b, directory.add_feed("a"), directory.feeds()) == (0, 1, 0, ["a", "b"])
    assert directory.add(a, "X") != directory.add(b, "X")
    assert directory.find(a, "X") == 0
    assert directory.find(b, "X") == 1
    assert directory.find(b, "Y") is None
    assert directory.of_feed(b).tolist() == [False, True, False, False]


def test_a_full_directory_refuses_a_new_instrument_and_knows_the_old_ones() -> None:
    directory = InstrumentDirectory.on_heap(2)
    feed = directory.add_feed("sim")
    directory.add(feed, "A")
    directory.add(feed, "B")
    with pytest.raises(DirectoryFull, match="'C': 2 instruments"):
        directory.add(feed, "C")
    assert directory.add(feed, "B") == 1
    assert directory.symbols() == ["A", "B"]


def test_a_full_directory_refuses_a_new_feed_and_knows_the_old_ones() -> None:
    directory = InstrumentDirectory.on_heap(2, feeds=1)
    directory.add_feed("a")
    with pytest.raises(DirectoryFull, match="feed 'b'"):
        directory.add_feed("b")
    assert directory.add_feed("a") == 0


def test_a_feed_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no feed 0"):
        InstrumentDirectory.on_heap(2).add(0, "A")


@pytest.mark.parametrize("name", ["a:b", "a/b"])
def test_a_feeds_name_fits_into_a_path_and_before_a_colon(name: str) -> None:
    with pytest.raises(ValueError, match="no ':' or '/'"):
        InstrumentDirectory.on_heap(2).add_feed(name)


@pytest.mark.parametrize("name", ["A", "BRK.B", "BTC-USD", "ES:2412", "€", "x" * NAME_BYTES, "é" * (NAME_BYTES // 2)])
def test_a_name_of_up_to_32_bytes_is_kept_as_it_is(name: str) -> None:
    directory = InstrumentDirectory.on_heap(1)
    assert directory.add(directory.add_feed("f"), name) == 0
    assert directory.symbols() == [name]


@pytest.mark.parametrize(
    "name", ["", "x" * (NAME_BYTES + 1), "é" * 17, "a b", "a,b", "a\n", "a\0", "\x7f", "a\u00a0b", "\u2028", "\ud800"]
)
def test_what_is_not_a_name_is_refused_and_takes_no_room(name: str) -> None:
    directory = InstrumentDirectory.on_heap(1)
    feed = directory.add_feed("f")
    with pytest.raises(ValueError, match="a name has"):
        directory.add(feed, name)
    with pytest.raises(ValueError, match="a name has"):
        directory.add_feed(name)
    assert (len(directory), directory.feeds()) == (0, ["f"])


@given(st.text())
def test_a_name_that_passes_comes_back_from_its_bytes(name: str) -> None:
    try:
        encoded = check_name(name)
    except ValueError:
        return
    table = np.zeros(1, INSTRUMENT)
    table[0] = (encoded, 0)
    assert table["symbol"].tolist()[0].decode() == name


ADD = st.tuples(st.just("add"), st.integers(0, 3), st.sampled_from(["A", "B", "C", "", "ü"]))
ADD_FEED = st.tuples(st.just("feed"), st.sampled_from(["x", "y", "z"]))
LOOK = st.tuples(st.just("look"))


@given(st.lists(ADD | ADD_FEED | LOOK, max_size=40))
def test_writer_and_reader_agree_with_a_dictionary(steps: list[tuple[object, ...]]) -> None:
    writer, reader = two_sides(capacity=4, feeds=2)
    ids: dict[tuple[int, str], int] = {}
    feeds: list[str] = []
    for step in steps:
        match step:
            case ("add", int(feed), str(symbol)):
                if (feed, symbol) in ids:
                    assert writer.add(feed, symbol) == ids[feed, symbol]
                elif not symbol or feed >= len(feeds):
                    with pytest.raises(ValueError, match=r"a name has|no feed"):
                        writer.add(feed, symbol)
                elif len(ids) == 4:
                    with pytest.raises(DirectoryFull):
                        writer.add(feed, symbol)
                else:
                    assert writer.add(feed, symbol) == len(ids)
                    ids[feed, symbol] = len(ids)
            case ("feed", str(name)):
                if name in feeds:
                    assert writer.add_feed(name) == feeds.index(name)
                elif len(feeds) == 2:
                    with pytest.raises(DirectoryFull):
                        writer.add_feed(name)
                else:
                    assert writer.add_feed(name) == len(feeds)
                    feeds.append(name)
            case ("look",):
                assert [reader.find(*key) for key in ids] == list(ids.values())
    for side in (writer, reader):
        assert len(side) == len(ids)
        assert side.feeds() == feeds
        assert list(zip(side.feed_of(), side.symbols(), strict=True)) == list(ids)
        assert [side.find(*key) for key in ids] == list(ids.values())
