"""A session whose ticks are records: told what the ids stand for, and resumed as one of messages is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.client.batch import Chunk
from marketfeed.client.errors import BadMessage
from marketfeed.client.messages import Quote
from marketfeed.model import QUOTE, TRADE
from marketfeed.stream.encoding import JsonEncoding
from tests.unit.client.support import User, directory, instruments, records, reply, ticks


def subscribed(*wishes: dict[str, object]) -> User:
    user = User()
    user.connect()
    for wish in wishes:
        user.subscribe(**wish)
        user.hear(reply(0))
    return user


def test_records_come_as_one_chunk_that_knows_its_instruments() -> None:
    user = subscribed({"quotes": ["*"]})
    assert user.hear(instruments(0, 2, feed="x")) == []
    (chunk,) = user.session.receive(records((2, QUOTE, 5), (0, QUOTE, 7)))
    assert isinstance(chunk, Chunk)
    assert chunk.ticks["seq"].tolist() == [5, 7]
    assert [(m.symbol, m.feed) for m in chunk.messages()] == [("B", "x"), ("A", "x")]
    assert user.session.receive(records()) == []


def test_the_next_connection_resumes_behind_the_last_record() -> None:
    user = subscribed({"quotes": ["*"]})
    user.hear(instruments(0, 2))
    user.session.receive(records((2, QUOTE, 5), (0, QUOTE, 7)))
    user.session.receive(records((2, QUOTE, 9)))
    (command,) = user.cut()
    assert command["since"] == {"epoch": 5, "seq": 9}


KIND = st.sampled_from([QUOTE, TRADE])
FRAMES = st.lists(st.lists(st.tuples(st.integers(0, 3), KIND), min_size=1, max_size=6), max_size=6)
WISHES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "quotes": st.lists(st.sampled_from(["A", "A*", "*", "x:B", "C"]), min_size=1, max_size=3),
            "trades": st.lists(st.sampled_from(["A", "?", "B"]), min_size=1, max_size=2),
            "max_hz": st.sampled_from([1, 2]),
        },
    ).filter(lambda wish: "quotes" in wish or "trades" in wish),
    min_size=1,
    max_size=4,
)


@given(WISHES, FRAMES, WISHES)
def test_of_several_subscriptions_each_resumes_where_it_would_with_messages(wishes, frames, later) -> None:
    both = [subscribed(*wishes) for _ in range(2)]
    both[1].hear(instruments(0, 1, 2, 3, feed="x"))
    json = JsonEncoding(directory(), True)
    seq = 0
    for n, frame in enumerate(frames):
        if n == len(frames) // 2:
            # The parts change in between.
            for user in both:
                for wish in later:
                    user.subscribe(**wish)
                    user.hear(reply(seq))
        made = [(instrument, kind, seq + i) for i, (instrument, kind) in enumerate(frame, 1)]
        seq += len(made)
        messages = both[0].session.receive(json.ticks(*ticks(*made)).frame().decode())
        (chunk,) = both[1].session.receive(records(*made))
        assert isinstance(chunk, Chunk)
        assert chunk.messages() == messages
    assert both[0].cut() == both[1].cut()


def test_ids_are_kept_over_a_cut_and_forgotten_with_the_life_of_the_server() -> None:
    user = subscribed({"quotes": ["*"]})
    user.hear(instruments(0, feed="x"))
    (before,) = user.session.receive(records((0, QUOTE, 1)))
    user.cut()
    user.hear(reply(1), instruments(0, 1, feed="x"))
    (after,) = user.session.receive(records((1, QUOTE, 2)))
    assert isinstance(before, Chunk)
    assert isinstance(after, Chunk)
    assert after.instruments is before.instruments
    assert after.instruments.epoch == 5
    user.cut(epoch=6)
    with pytest.raises(BadMessage, match="had not told"):
        user.session.receive(records((1, QUOTE, 1)))
    user.hear({"T": "instruments", "instruments": [{"id": 1, "S": "Z", "f": "x"}]})
    (anew,) = user.session.receive(records((1, QUOTE, 1)))
    assert isinstance(anew, Chunk)
    assert [m.symbol for m in anew.messages()] == ["Z"]
    assert [m.symbol for m in after.messages()] == ["AB"]


def test_what_is_no_record_of_a_known_instrument_is_no_message() -> None:
    user = subscribed({"quotes": ["*"]})
    user.hear(instruments(0))
    for frame in (records((3, QUOTE, 1)), records((0, QUOTE, 1))[:-1], b"", b"[]"):
        with pytest.raises(BadMessage):
            user.session.receive(frame)
    for told in ({"id": 0, "S": "other"}, {"id": -1, "S": "A"}, {"id": 1 << 40, "S": "A"}, {"id": 1 << 80, "S": "A"}):
        with pytest.raises(BadMessage):
            user.hear({"T": "instruments", "instruments": [told]})
    assert user.hear(instruments(0)) == []


def test_a_kind_that_only_a_newer_server_has_stays_in_batches_and_gives_no_message() -> None:
    user = subscribed({"quotes": ["*"]})
    user.hear(instruments(0))
    (chunk,) = user.session.receive(records((0, QUOTE, 1), (0, 9, 2)))
    assert isinstance(chunk, Chunk)
    assert chunk.ticks["kind"].tolist() == [QUOTE, 9]
    assert [type(m) for m in chunk.messages()] == [Quote]
    (command,) = user.cut()
    assert command["since"]["seq"] == 2
