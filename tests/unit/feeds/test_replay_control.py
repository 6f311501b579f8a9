"""A replay that is told what to do: pause, resume, seek, speed, and start and end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.replay import ReplayFeed
from feeds.replay.options import moment_ns
from marketfeed.feed import FeedError, run_control
from tests.unit.feeds.replay_helper import NOW, Context, play, replay
from tests.unit.feeds.test_replay import T0, S, prices, write

#: T0, as text.
T0_TEXT = "2023-11-14T22:13:{:02d}Z"


def at(seconds: int) -> str:
    """So many seconds after T0, which is at second 20 of its minute."""
    return T0_TEXT.format(20 + seconds)


def opened(path: Path, **options: str) -> ReplayFeed:
    feed = replay(path, **{"speed": "1", **options})
    feed.open(Context(), NOW)
    return feed


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten ticks, one a second."""
    return write(tmp_path / "a.csv", *range(10))


# Pause and resume


def test_while_it_is_paused_nothing_plays_and_then_it_goes_on_from_there(ten: Path) -> None:
    feed = opened(ten)
    assert prices(feed, NOW + 2 * S) == [0, 1, 2]
    run_control(feed, "pause", None, NOW + 2 * S + S // 4)
    assert prices(feed, NOW + 500 * S) == []
    assert feed.progress(NOW + 500 * S)["state"] == "paused"
    assert feed.progress(NOW + 500 * S)["time"] == "2023-11-14T22:13:22.250000000Z"
    run_control(feed, "resume", None, NOW + 500 * S)
    assert prices(feed, NOW + 500 * S) == []
    assert feed.poll(NOW + 500 * S).due_ns == NOW + 500 * S + 3 * S // 4
    assert prices(feed, NOW + 501 * S) == [3]


def test_paused_as_fast_as_possible_it_goes_on_as_fast_as_possible(tmp_path: Path) -> None:
    feed = opened(write(tmp_path / "a.csv", *range(10_000)), speed="max")
    first = len(feed.poll(NOW).batch) or len(feed.poll(NOW).batch)
    while not first:
        first = len(feed.poll(NOW).batch)
    run_control(feed, "pause", None, NOW)
    assert prices(feed, NOW + S) == []
    run_control(feed, "resume", None, NOW + S)
    assert prices(feed, NOW + S) == list(range(first, 10_000))


# Speed


def test_another_speed_holds_from_where_it_is(ten: Path) -> None:
    feed = opened(ten)
    assert prices(feed, NOW + 2 * S) == [0, 1, 2]
    run_control(feed, "speed", "0.5", NOW + 2 * S)
    assert prices(feed, NOW + 4 * S - 1) == []
    assert prices(feed, NOW + 4 * S) == [3]
    run_control(feed, "speed", "4", NOW + 4 * S)
    assert prices(feed, NOW + 5 * S) == [4, 5, 6, 7]
    run_control(feed, "speed", "max", NOW + 5 * S)
    assert prices(feed, NOW + 5 * S) == [8, 9]
    assert feed.progress(NOW + 5 * S)["speed"] == "max"


def test_one_that_could_not_keep_up_does_not_jump_when_its_speed_changes(ten: Path) -> None:
    feed = opened(ten)
    assert prices(feed, NOW) == [0]
    # Nobody asked for a minute: at the slower speed the next one is due now, and not all of them.
    run_control(feed, "speed", "0.1", NOW + 60 * S)
    assert prices(feed, NOW + 60 * S) == [1]


# Seek


def test_it_goes_on_from_a_time_before_or_after_and_due_times_begin_anew(ten: Path) -> None:
    feed = opened(ten)
    assert prices(feed, NOW + 1 * S) == [0, 1]
    run_control(feed, "seek", at(6), NOW + 100 * S)
    assert prices(feed, NOW + 100 * S) == [6]
    assert prices(feed, NOW + 101 * S) == [7]
    run_control(feed, "seek", "2023-11-14T22:13:22.5Z", NOW + 200 * S)
    assert prices(feed, NOW + 200 * S) == []
    assert feed.poll(NOW + 200 * S).due_ns == NOW + 200 * S + S // 2
    assert prices(feed, NOW + 201 * S) == [3]


def test_before_the_beginning_is_the_beginning(ten: Path) -> None:
    feed = opened(ten)
    run_control(feed, "seek", "2001-01-01", NOW + 5 * S)
    assert prices(feed, NOW + 5 * S) == [0]
    assert prices(feed, NOW + 6 * S) == [1]


def test_behind_the_end_it_has_ended_and_can_go_back(ten: Path) -> None:
    feed = opened(ten)
    run_control(feed, "seek", "2023-11-15", NOW)
    assert prices(feed, NOW) == []
    assert feed.poll(NOW).due_ns is None
    assert feed.progress(NOW)["state"] == "ended"
    run_control(feed, "seek", at(9), NOW + 7 * S)
    assert prices(feed, NOW + 7 * S) == [9]


def test_a_seek_while_it_is_paused_shows_when_it_goes_on(ten: Path) -> None:
    feed = opened(ten)
    run_control(feed, "pause", None, NOW)
    run_control(feed, "seek", at(4), NOW + 1 * S)
    assert prices(feed, NOW + 10 * S) == []
    assert feed.progress(NOW + 10 * S) | {"start": 0} == {
        "state": "paused", "speed": 1.0, "time": "2023-11-14T22:13:24.000000000Z",
        "start": 0, "end": None, "loop": False, "ticks": 0,
    }  # fmt: skip
    run_control(feed, "resume", None, NOW + 20 * S)
    assert prices(feed, NOW + 20 * S) == [4]
    assert prices(feed, NOW + 21 * S) == [5]


def test_what_the_way_to_a_place_took_is_not_caught_up_with(tmp_path: Path) -> None:
    feed = opened(write(tmp_path / "a.csv", *range(20_000)))
    run_control(feed, "seek", "2023-11-15T03:46:00Z", NOW)  # tick 19,960
    now, got = NOW, []
    while not got:
        now += 10 * S
        got = feed.poll(now).batch["price"].tolist()
    assert got == [19_960]


# Start, end, loop


def test_start_is_the_first_and_end_the_first_that_is_left_out(ten: Path) -> None:
    feed = opened(ten, start=at(3), end=at(6))
    assert prices(feed, NOW) == [3]
    assert prices(feed, NOW + 60 * S) == [4, 5]
    assert feed.poll(NOW + 60 * S).due_ns is None


def test_a_loop_begins_again_at_the_start(ten: Path) -> None:
    feed = opened(ten, start=at(3), end=at(5), loop="true")
    assert [prices(feed, NOW + after * S) for after in range(5)] == [[3], [4], [3], [4], [3]]
    run_control(feed, "seek", at(0), NOW + 100 * S)
    assert prices(feed, NOW + 100 * S) == [3]
    with pytest.raises(FeedError, match="is not before end"):
        run_control(feed, "seek", at(5), NOW)


def test_several_files_are_cut_by_time_too(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", *range(0, 20, 2), symbol="A")
    write(tmp_path / "b.csv", *range(1, 20, 2), symbol="B")
    ticks, _ = play(tmp_path, start=at(5), end=at(9))
    assert (ticks["ts_event"] // S - T0).tolist() == [5, 6, 7, 8]


def test_nothing_in_the_time_that_is_wanted_is_told(ten: Path, caplog: pytest.LogCaptureFixture) -> None:
    ticks, _ = play(ten, start="2024-01-01", loop="true")
    assert len(ticks) == 0
    assert "the recording has no ticks in the time that is wanted" in caplog.text


def test_a_start_behind_the_end_stops_it(ten: Path) -> None:
    with pytest.raises(FeedError, match="is not before end"):
        replay(ten, start=at(5), end=at(5))


commands = st.lists(
    st.tuples(
        st.sampled_from(
            ["pause", "resume", "speed 0.5", "speed 3", "wait", "wait", *(f"seek {at(n)}" for n in range(10))]
        ),
        st.integers(0, 3 * S),
    ),
    max_size=30,
)


@given(commands)
def test_whatever_it_is_told_every_tick_plays_in_order_from_where_it_was_put(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, int]]
) -> None:
    feed = opened(write(tmp_path_factory.getbasetemp() / "told.csv", *range(10)))
    now, wanted = NOW, 0
    for what, pause in [*told, ("resume", 0), ("wait", 100 * S)]:
        now += pause
        if what != "wait":
            name, _, value = what.partition(" ")
            run_control(feed, name, value or None, now)
            if name == "seek":
                wanted = int(value[17:19]) - 20
        for price in prices(feed, now):
            assert price == wanted
            wanted += 1
    assert wanted == 10


# Times as text


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2023-11-14T22:13:20Z", T0 * S),
        ("2023-11-14T22:13:20", T0 * S),
        ("2023-11-14 22:13:20", T0 * S),
        ("2023-11-14T22:13:20.000000001Z", T0 * S + 1),
        ("2023-11-14T23:13:20+01:00", T0 * S),
        ("2023-11-14T23:13:20 01:00", T0 * S),
        ("2023-11-14T17:13:20-0500", T0 * S),
        ("2023-11-14T22:13Z", (T0 - 20) * S),
        ("2023-11-14", (T0 // 86_400 * 86_400) * S),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, ns: int) -> None:
    assert moment_ns(text, None) == ns


def test_a_time_without_a_zone_is_of_the_zone_that_was_named(ten: Path) -> None:
    ticks, _ = play(ten, start="2023-11-14T17:13:24", tz="America/New_York")
    assert ticks["price"].tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("text", ["", "now", "1700000000", "2023-13-01", "2023-11-14T25:00", "2023-11-14T22:13:20.Z"])
def test_a_text_that_is_no_time_is_told(ten: Path, text: str) -> None:
    with pytest.raises(FeedError, match="a time such as"):
        replay(ten, start=text)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seek", None, "seek takes a value"),
        ("pause", "3", "pause takes no value"),
        ("speed", "-1", "speed -1: a factor above 0, or max, is wanted"),
        ("stop", None, "no control 'stop'; there are: pause, resume, seek, speed"),
    ],
)
def test_what_it_cannot_do_is_told(ten: Path, name: str, value: str | None, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        run_control(opened(ten), name, value, NOW)
