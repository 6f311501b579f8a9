"""Which credentials are good."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from marketfeed.server.auth import authenticator
from marketfeed.stream.protocol import Auth


def test_without_keys_there_is_nothing_to_ask():
    assert authenticator([]) is None


@pytest.mark.parametrize(
    ("credentials", "good"),
    [
        (Auth(key="alice", secret="s3:cret"), True),
        (Auth(token="alice:s3:cret"), True),
        (Auth(key="bob", secret="ünïcode"), True),
        (Auth(token="lone-token"), True),
        (Auth(), False),
        (Auth(key="alice"), False),
        (Auth(secret="s3:cret"), False),
        (Auth(key="alice", secret="s3:cre"), False),
        (Auth(key="alice", secret="s3:cret "), False),
        (Auth(key="Alice", secret="s3:cret"), False),
        (Auth(key="alice", secret="ünïcode"), False),  # the key of one, the secret of another
        (Auth(key="lone-token"), False),
        (Auth(key="lone-token", secret="lone-token"), False),
        (Auth(token="alice"), False),
        (Auth(token="s3:cret"), False),
        (Auth(token=":"), False),
        (Auth(token="lone-toke\u0301n"), False),
        (Auth(token="\ud800"), False),
        # A token that is given counts alone: a wrong one is not made good by a pair beside it.
        (Auth(key="alice", secret="s3:cret", token="wrong"), False),
        (Auth(key="wrong", secret="wrong", token="lone-token"), True),
    ],
)
def test_only_the_keys_that_were_set_are_good(credentials, good):
    authenticate = authenticator(["alice:s3:cret", "bob:ünïcode", "lone-token"])
    assert authenticate is not None
    assert authenticate(credentials) is good


@pytest.mark.parametrize("key", ["", ":", ":secret", "key:"])
def test_a_key_with_nothing_in_it_is_refused(key):
    with pytest.raises(ValueError, match="KEY:SECRET or TOKEN"):
        authenticator(["good:one", key])


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)


@given(st.lists(st.tuples(TEXTS.filter(lambda key: ":" not in key), TEXTS), min_size=1, max_size=5), TEXTS, TEXTS)
def test_a_pair_is_good_when_it_was_set_and_never_otherwise(pairs, key, secret):
    authenticate = authenticator(f"{a}:{b}" for a, b in pairs)
    assert authenticate is not None
    assert all(authenticate(Auth(key=a, secret=b)) for a, b in pairs)
    assert authenticate(Auth(key=key, secret=secret)) == (f"{key}:{secret}" in {f"{a}:{b}" for a, b in pairs})
    assert not authenticate(Auth())
