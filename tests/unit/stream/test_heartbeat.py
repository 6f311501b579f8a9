"""When heartbeats are due, against a dict that is looked through."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from marketfeed.stream.heartbeat import Heartbeats
from tests.unit.stream.support import Market

steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from([0.0, 0.25, 1.0, 5.0])),
    ),
    max_size=60,
)


@given(steps)
def test_each_is_due_an_interval_after_it_was_set_or_sent_last(steps):
    market = Market()
    sessions = [market.session()[0] for _ in range(5)]
    heartbeats, now, expected = Heartbeats(), 0.0, {}
    for what, who, seconds in steps:
        if what == "set":
            heartbeats.set(sessions[who], seconds, now)
            expected.pop(who, None)
            if seconds:
                expected[who] = (now + seconds, seconds)
        else:
            now += seconds
            came = heartbeats.pop(now)
            times = []
            for number, (at, interval) in expected.items():
                while at <= now:
                    times.append(number)
                    at = now + interval
                expected[number] = (at, interval)
            assert sorted(sessions.index(session) for session in came) == sorted(times)
        assert heartbeats.due() == min((at for at, _ in expected.values()), default=inf)
        assert len(heartbeats) == len(expected)


def test_what_was_taken_away_does_not_pile_up():
    market = Market()
    heartbeats = Heartbeats()
    session, _ = market.session()
    for _ in range(10_000):
        heartbeats.set(session, 3600.0, 0.0)
        heartbeats.set(session, 0.0, 0.0)
    assert len(heartbeats) == 0
    assert len(heartbeats._heap) < 100
