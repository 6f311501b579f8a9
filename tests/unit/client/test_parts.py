"""The client tells the parts of its subscription apart as the server does."""

from hypothesis import given
from hypothesis import strategies as st

from marketfeed.client.messages import Quote
from marketfeed.client.messages import Rule as ToldRule
from marketfeed.client.parts import Options, Part, Parts
from marketfeed.model import QUOTE, InstrumentDirectory
from marketfeed.stream.subscription import Rule, Selection

LETTERS = "AB[-"
names = st.text(LETTERS, min_size=1, max_size=3)
feeds = st.sampled_from(["x", "y"])
patterns = st.one_of(
    names,
    st.text(LETTERS + "*?", min_size=1, max_size=4),
    st.builds("{}:{}".format, feeds, st.text(LETTERS + "*?", min_size=1, max_size=3)),
)


@given(st.dictionaries(patterns, st.booleans(), min_size=1, max_size=8), names, feeds)
def test_client_and_server_agree_on_which_rule_a_tick_comes_from(
    rules: dict[str, bool], symbol: str, feed: str
) -> None:
    directory = InstrumentDirectory.on_heap(4)
    for name in ("x", "y"):
        directory.add_feed(name)
    instrument = directory.add(0 if feed == "x" else 1, symbol)
    # On the server each part is a selection that leaves to the others what is theirs.
    served = [
        (QUOTE, instrument)
        in Selection(None, [Rule(QUOTE, p, takes is mine) for p, takes in rules.items()]).resolve(directory)
        for mine in (True, False)
    ]
    parts = Parts()
    mine, others = (
        Part(Options(hz), {("quotes", p) for p, takes in rules.items() if takes is which}, 1, 0)
        for hz, which in ((None, True), (1.0, False))
    )
    for part in (mine, others):
        if part.names:
            parts.add(part, anew=True)
    owner = parts.owner(Quote(symbol, 1, 1, 2, 1, "2024-01-01T00:00:00Z", 1, feed))
    assert [owner is mine, owner is others] == served


def test_options_are_those_that_the_server_tells_for_these_symbols() -> None:
    asked = Options(4.0, "1 < bid", ("bp",))
    rules = [
        ToldRule(["A"], [], 4.0, "bid > 1", ["ap"]),
        ToldRule(["B"], ["A"], 4.0, "2 < bid"),
        ToldRule(["C"], [], 4.0),
    ]
    assert asked.told([("quotes", "A")], rules) == Options(4.0, "bid > 1", ("ap",))
    assert asked.told([("trades", "A"), ("quotes", "B")], rules) == Options(4.0, "2 < bid", None)
    assert asked.told([("quotes", "C")], rules) == Options(4.0)
    assert asked.told([("quotes", "D")], rules) == asked
    assert asked.told([("quotes", "A")], []) == asked


def test_what_is_remembered_of_instruments_is_forgotten_when_the_parts_change() -> None:
    parts = Parts()
    tick = Quote("A", 1, 1, 2, 1, "2024-01-01T00:00:00Z", 1, "x")
    wide = Part(Options(), {("quotes", "*")}, 1, 0)
    exact = Part(Options(1.0), {("quotes", "A")}, 1, 0)
    parts.add(wide, anew=True)
    assert parts.owner(tick) is wide
    parts.add(exact, anew=True)
    assert parts.owner(tick) is exact
    parts.remove({("quotes", "A")})
    assert parts.owner(tick) is wide
    assert list(parts) == [wide]
