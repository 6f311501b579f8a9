"""What a server's messages become in a recording."""

import math

import numpy as np

from marketfeed.client.messages import Quote, Trade
from marketfeed.model.tick import QUOTE, TRADE
from marketfeed.recording.remote import Translator

NOW = 1_740_823_200_000_000_000
T = "2025-03-01T09:59:59.123456789Z"


def test_messages_become_ticks_in_their_order() -> None:
    translator = Translator("")
    ticks, seqs = translator.ticks(
        [
            Quote("A", 1.5, 2, 1.6, 3, T, 41, "x"),
            Trade("A", 1.55, 7, T, 42, "x"),
            Quote("A", 2.5, 2, 2.6, 3, T, 44, "y"),
        ],
        NOW,
    )
    assert seqs.tolist() == [41, 42, 44]
    assert ticks["kind"].tolist() == [QUOTE, TRADE, QUOTE]
    assert ticks["ts_event"].tolist() == [NOW - 1_000_000_000 + 123_456_789] * 3
    assert ticks["ts_recv"].tolist() == [NOW] * 3
    assert [translator.directory.symbols()[number] for number in ticks["instrument"]] == ["A", "A", "A"]
    assert [translator.directory.feeds()[number] for number in ticks["feed"]] == ["x", "x", "y"]
    assert ticks["instrument"].tolist() == [0, 0, 1]
    assert ticks[["bid", "bid_size", "ask", "ask_size"]][0].tolist() == (1.5, 2, 1.6, 3)
    assert ticks[["price", "size"]][1].tolist() == (1.55, 7)
    assert np.isnan(ticks["price"]).tolist() == [True, False, True]
    assert np.isnan(ticks["bid"]).tolist() == [False, True, False]


def test_a_side_that_is_not_there_and_a_size_that_is_not_told_are_nan() -> None:
    ticks, _ = Translator("f").ticks([Quote("A", 0, 0, 1.6, 0, T, 1), Trade("A", 1.6, 0, T, 2)], NOW)
    assert math.isnan(ticks["bid"][0])
    assert math.isnan(ticks["bid_size"][0])
    assert ticks["ask"][0] == 1.6
    assert math.isnan(ticks["ask_size"][0])
    assert math.isnan(ticks["size"][1])


def test_messages_that_name_no_feed_are_of_the_one_that_was_asked_for() -> None:
    translator = Translator("sim")
    translator.ticks([Trade("A", 1, 1, T, 1)], NOW)
    assert translator.directory.feeds() == ["sim"]


def test_a_name_that_cannot_be_is_counted_and_the_others_go_on() -> None:
    translator = Translator("sim")
    messages = [
        Trade("A B", 1, 1, T, 1),
        Trade("A", 2, 1, T, 2),
        Trade("A B", 3, 1, T, 3),
        Trade("A", 1, 1, T, 4, "a:b"),
    ]
    ticks, seqs = translator.ticks(messages, NOW)
    assert seqs.tolist() == [2]
    assert len(ticks) == 1
    assert translator.refused == 3


def test_no_messages_are_no_ticks() -> None:
    ticks, seqs = Translator("sim").ticks([], NOW)
    assert (len(ticks), len(seqs)) == (0, 0)
