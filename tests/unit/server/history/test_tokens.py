"""Page tokens say where to go on, and are of use for nothing else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.server.history.tokens import Token, TokenError, TokenExpired, decode

TOKEN = Token(epoch=7, until=100, place=40)


@given(
    st.integers(1, (1 << 53) - 1), st.integers(0, (1 << 62)), st.integers(0, (1 << 63) - 1), st.text(max_size=50)
)  # fmt: skip
def test_a_token_is_read_as_it_was_written(epoch, until, place, query):
    token = Token(epoch, until, place)
    text = token.encode(query)
    assert text.isascii()
    assert not set(text) & set("+/=&?%, ")
    assert decode(text, query, epoch, until) == token


@given(st.text(max_size=80))
def test_any_other_text_is_none(text):
    with pytest.raises(TokenError, match="none of this server's"):
        decode(text, "q", 7, 100)


@pytest.mark.parametrize("at", range(1, 33))
def test_a_token_with_another_byte_is_not_taken_for_a_token_of_this_request(at):
    packed = bytearray(base64.urlsafe_b64decode(TOKEN.encode("q") + "=" * 4))
    packed[at] ^= 0x80
    try:
        decoded = decode(base64.urlsafe_b64encode(packed).decode(), "q", 7, 100)
    except (TokenError, TokenExpired):
        return
    # Then it is another place of the same request, and harmless.
    assert decoded.place >= 0
    assert 0 <= decoded.until <= 100


def test_a_token_of_another_life_of_the_server_is_told_so():
    with pytest.raises(TokenExpired, match="another life of the server"):
        decode(TOKEN.encode("q"), "q", 8, 100)


def test_a_token_of_another_request_is_told_so():
    with pytest.raises(TokenError, match="another request"):
        decode(TOKEN.encode("q"), "p", 7, 100)


def test_a_token_from_beyond_the_last_tick_is_none():
    with pytest.raises(TokenError):
        decode(TOKEN.encode("q"), "q", 7, 99)
