"""Payloads of JSON, told apart and cut into smaller ones."""

from itertools import pairwise

import orjson
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.stream.protocol import MESSAGE_TYPES
from marketfeed.transports.jsonframe import ALONE, kind, split

TEXT = st.text(max_size=30) | st.sampled_from(['},{"T":"', '"},{"T":"q"', "\\", '\\"', "]", "},{"])
MESSAGES = st.lists(st.builds(lambda kind, text: {"T": kind, "S": text}, st.sampled_from("qt"), TEXT), min_size=1)


@given(MESSAGES, st.integers(20, 400))
def test_the_parts_are_payloads_with_the_same_messages_and_no_longer_than_asked_for(messages, most):
    parts = split(orjson.dumps(messages), most)
    found = [orjson.loads(part) for part in parts]
    assert [message for part in found for message in part] == messages
    for part, inside in zip(parts, found, strict=True):
        assert len(part) <= most or len(inside) == 1


@given(MESSAGES, st.integers(60, 400))
def test_no_part_could_have_taken_the_next_message_too(messages, most):
    found = [orjson.loads(part) for part in split(orjson.dumps(messages), most)]
    for part, following in pairwise(found):
        assert len(orjson.dumps([*part, following[0]])) > most


def test_a_payload_that_is_short_enough_is_left_as_it_is():
    assert split(b'[{"T":"q","S":"A"}]', 1000) == [b'[{"T":"q","S":"A"}]']


def test_the_kind_is_that_of_the_first_message():
    assert kind(b'[{"T":"gap","from":1}]') == b"gap"
    assert kind(b'[{"T":"q"},{"T":"t"}]') == b"q"
    assert kind(b"[]") == b""


def test_every_message_that_is_no_tick_comes_alone():
    # Instruments are told in the binary encoding only.
    assert {name.encode() for name in MESSAGE_TYPES} - ALONE == {b"q", b"t", b"b", b"u", b"instruments"}
