"""What users are shown of functions that pass their arguments on."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import marketfeed
from marketfeed.client import Feed, SyncFeed, connect, connect_sync, request
from marketfeed.client.signature import own_parameters_of, parameters_of


def parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    shown = inspect.signature(function).parameters.values()
    return {each.name: (each.default, each.kind) for each in shown}


@pytest.mark.parametrize("feed", [Feed, SyncFeed])
@pytest.mark.parametrize("name", ["subscribe", "unsubscribe"])
def test_a_feed_shows_the_parameters_of_what_it_asks(feed: type, name: str) -> None:
    shown = parameters(getattr(feed, name))
    assert next(iter(shown)) == "self"
    assert {key: value for key, value in shown.items() if key != "self"} == parameters(getattr(request, name))
    # A notebook completes the names of a feed that is there.
    assert parameters(getattr(object.__new__(feed), name)) == parameters(getattr(request, name))


@pytest.mark.parametrize("function", [connect, connect_sync, marketfeed.connect_sync])
def test_connecting_shows_the_parameters_of_a_feed(function: Callable[..., Any]) -> None:
    assert parameters(function) == parameters(Feed)
    assert "url" in parameters(function)


@pytest.mark.parametrize(
    ("told", "function"), [(connect.__doc__, connect), (Feed.subscribe.__doc__, request.subscribe)]
)
def test_each_parameter_is_told_of_where_users_look(told: str, function: Callable[..., Any]) -> None:
    arguments = told.split("Args:")[1].split("Raises:")[0]
    named = [name for line in re.findall(r"^ +([a-z_, ]+): ", arguments, re.MULTILINE) for name in line.split(", ")]
    assert sorted(named) == sorted(parameters(function))


def test_an_argument_that_is_not_taken_is_an_error_where_it_is_given() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_hertz'"):
        request.subscribe(["A"], max_hertz=1)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        connect("ws://127.0.0.1:1/stream", colour="red")  # type: ignore[call-arg]  # what is tested


def test_the_name_the_words_and_the_answer_stay_the_functions_own() -> None:
    def source(a: int, *, b: str = "x") -> int:
        return a + len(b)

    @parameters_of(source)
    def function(*given: Any, **more: Any) -> str:
        """Its own words."""
        return str(source(*given, **more))

    class Thing:
        @own_parameters_of(source)
        def method(self, *given: Any, **more: Any) -> str:
            return str(source(*given, **more))

    assert (function.__name__, function.__doc__, function(1, b="yz")) == ("function", "Its own words.", "3")
    assert str(inspect.signature(function)) == "(a: int, *, b: str = 'x') -> str"
    assert str(inspect.signature(Thing.method)) == "(self, a: int, *, b: str = 'x') -> str"
    assert str(inspect.signature(Thing().method)) == "(a: int, *, b: str = 'x') -> str"
    assert Thing().method(1) == "2"
