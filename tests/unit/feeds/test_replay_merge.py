"""The merge by time, held against heapq.merge, and any way to cut the sources into batches."""

import heapq
from collections.abc import Generator, Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feeds.replay.merge import BATCH_ROWS, Merge, start_of
from feeds.replay.readers import Source
from feeds.replay.readers.base import DamagedFile, ReaderContext
from marketfeed.model.tick import QUOTE, Ticks, empty_ticks
from tests.unit.feeds.replay_helper import NOW, Taking, joined


class Recorded:
    """A source of given times, cut into batches; ``venue_seq`` numbers its ticks, ``instrument`` is the source."""

    def __init__(self, number: int, times: Iterable[int], cuts: Iterable[int] = (), damaged: bool = False) -> None:
        times = list(times)
        self.ticks = empty_ticks(len(times))
        self.ticks["ts_event"] = times
        self.ticks["venue_seq"] = np.arange(len(times))
        self.ticks["instrument"] = number
        self.ticks["kind"] = QUOTE
        self.ticks["bid"] = 1.0
        self.cuts = sorted(cut % (len(times) + 1) for cut in cuts)
        self.damaged = damaged
        self.open = False
        self.given = 0

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        assert context.instrument("A", 1) == 0
        self.open = True
        try:
            for batch in np.split(self.ticks, self.cuts):
                self.given += 1
                yield batch
            if self.damaged:
                raise DamagedFile("half of it is missing")
        finally:
            self.open = False

    def source(self) -> Source:
        return Source("recorded", self.read)


def merged(sources: list[Recorded], context: Taking | None = None) -> list[tuple[Ticks, np.ndarray]]:
    named = [source.source() for source in sources]
    merge = Merge(named, [start_of(source, NOW) for source in named], context or Taking())
    given = []
    while (read := merge.read(NOW)) is not None:
        if len(read[0]):
            given.append((read[0].copy(), read[1].copy()))
    return given


def pairs(ticks: Ticks) -> list[tuple[int, int]]:
    return list(zip(ticks["instrument"].tolist(), ticks["venue_seq"].tolist(), strict=True))


def wanted(sources: list[Recorded]) -> list[tuple[int, int]]:
    """What heapq.merge makes of it: the earliest head first, of equal ones the first source's."""

    def rows(place: int, source: Recorded) -> Iterable[tuple[int, int, int]]:
        for seq, when in enumerate(source.ticks["ts_event"].tolist()):
            yield when, place, seq

    lanes = [rows(place, source) for place, source in enumerate(sources)]
    order = heapq.merge(*lanes, key=lambda row: row[:2])
    return [(int(sources[place].ticks["instrument"][seq]), seq) for _, place, seq in order]


few_times = st.lists(st.integers(0, 12), max_size=60)
cuts = st.lists(st.integers(0, 100), max_size=8)
any_sources = st.lists(st.tuples(few_times, cuts), max_size=6)


@given(any_sources)
def test_ticks_come_as_sorting_by_time_and_source_would_put_them(drawn: list[tuple[list[int], list[int]]]) -> None:
    sources = [Recorded(number, sorted(times), at) for number, (times, at) in enumerate(drawn)]
    ticks = joined([batch for batch, _ in merged(sources)])
    together = joined([source.ticks for source in sources])
    assert pairs(ticks) == pairs(together[np.argsort(together["ts_event"], kind="stable")])


@given(any_sources)
def test_a_source_whose_time_goes_back_keeps_its_own_order(drawn: list[tuple[list[int], list[int]]]) -> None:
    sources = [Recorded(number, times, at) for number, (times, at) in enumerate(drawn)]
    given_out = merged(sources)
    assert pairs(joined([batch for batch, _ in given_out])) == wanted(sources)
    keys = [key for _, keys in given_out for key in keys.tolist()]
    assert keys == sorted(keys)


@given(any_sources, st.lists(cuts, min_size=6, max_size=6))
def test_any_way_to_cut_the_sources_gives_the_same_ticks(
    drawn: list[tuple[list[int], list[int]]], other: list[list[int]]
) -> None:
    one = [Recorded(number, times, at) for number, (times, at) in enumerate(drawn)]
    two = [Recorded(number, times, other[number]) for number, (times, _) in enumerate(drawn)]
    assert joined([b for b, _ in merged(one)]).tobytes() == joined([b for b, _ in merged(two)]).tobytes()


def test_long_sources_come_in_batches_of_bounded_size() -> None:
    rng = np.random.default_rng(1)
    sources = [
        Recorded(number, np.sort(rng.integers(0, 50_000, 20_000)).tolist(), range(3_000, 20_000, 3_000))
        for number in range(8)
    ]
    given_out = merged(sources)
    assert max(len(batch) for batch, _ in given_out) <= BATCH_ROWS
    assert pairs(joined([batch for batch, _ in given_out])) == wanted(sources)


def test_one_step_reads_one_batch_of_one_source_at_the_most() -> None:
    sources = [Recorded(number, range(100), range(10, 100, 10)) for number in range(5)]
    merge = Merge([source.source() for source in sources], [0] * 5, Taking())
    before = 0
    while merge.read(NOW) is not None:
        given = sum(source.given for source in sources)
        assert given - before <= 1
        before = given


def test_a_source_is_open_only_while_its_time_has_come() -> None:
    sources = [Recorded(number, range(number * 1_000, number * 1_000 + 900), [450]) for number in range(50)]
    named = [source.source() for source in sources]
    merge = Merge(named, [start_of(source, NOW) for source in named], Taking())
    assert not any(source.open for source in sources)
    rows = 0
    while (read := merge.read(NOW)) is not None:
        rows += len(read[0])
        assert sum(source.open for source in sources) <= 2
    assert rows == 50 * 900
    assert not any(source.open for source in sources)


def test_closing_lets_go_of_every_source() -> None:
    sources = [Recorded(number, range(10_000), [5_000]) for number in range(3)]
    merge = Merge([source.source() for source in sources], [0] * 3, Taking())
    while not all(source.open for source in sources):
        merge.read(NOW)
    merge.close()
    assert not any(source.open for source in sources)
    assert merge.read(NOW) is None


def test_a_damaged_source_plays_up_to_there_and_the_others_go_on() -> None:
    context = Taking()
    sources = [Recorded(0, range(0, 100, 2), [20], damaged=True), Recorded(1, range(1, 400, 2), [20])]
    ticks = joined([batch for batch, _ in merged(sources, context)])
    assert pairs(ticks) == wanted(sources)
    assert context.refused == {"damaged file": 1}
    assert "half of it is missing" in context.examples["damaged file"]


def test_a_time_that_cannot_be_does_not_hold_up_the_others() -> None:
    context = Taking()
    bad = [-1, NOW + 2 * 86_400 * 10**9, 2**63 - 1]
    ticks = joined([batch for batch, _ in merged([Recorded(0, [bad[0], 1, bad[1], 2, bad[2], 3])], context)])
    assert ticks["ts_event"].tolist() == [1, 2, 3]
    assert context.refused == {"time before 1970": 1, "time beyond tomorrow": 2}
