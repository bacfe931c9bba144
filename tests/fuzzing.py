"""Arbitrary JSON, right data with something wrong in it, and damaged files; what every reader owes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from puma_hub import PumaHubError

LONGEST_MESSAGE = 1000
Found = TypeVar("Found")

_HARD = [
    *(10**400, -(10**400), 10**30, 2**63, 2**31, 2**21, 2**20, 2**16, -1, 0, 1, 3, True, False),
    *(math.inf, -math.inf, math.nan, 1e-320, 1e300, 1.5),
    *("", " ", "\x1b[2J", "\ud800", "a\nb", "\u202e", "NaN", "1e999", "x" * 3000, "y " * 3000, "AAAA", "🦎" * 300),
    *([], {}, [[]], [0.5] * 3, [1] * 100, {"a": 1}),
]
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(_HARD))
_DEEP: Any = []
for _ in range(200):
    _DEEP = [_DEEP, {"a": _DEEP[:1]}][:1]
ANY_JSON = st.one_of(
    st.recursive(
        _SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8) | st.sampled_from(["self", "name"]), inner)
        ),
        max_leaves=8,
    ),
    st.just(_DEEP),
)

quick = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in ``value`` something stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in _places(item, (*path, key)))]


def _with(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], Any]) -> Any:
    """``value`` with ``change(container, key)`` in place of the container that the path ends in."""
    if len(path) == 1:
        return change(value, path[0])
    if isinstance(value, dict):
        return {**value, path[0]: _with(value[path[0]], path[1:], change)}
    return [_with(item, path[1:], change) if at == path[0] else item for at, item in enumerate(value)]


def _replaced(new: Any) -> Callable[[Any, Any], Any]:
    def change(holder: Any, key: Any) -> Any:
        if isinstance(holder, dict):
            return {**holder, key: new}
        return [new if at == key else item for at, item in enumerate(holder)]

    return change


def _dropped(holder: Any, key: Any) -> Any:
    if isinstance(holder, dict):
        return {name: item for name, item in holder.items() if name != key}
    return [item for at, item in enumerate(holder) if at != key]


def _doubled(holder: Any, key: Any) -> Any:
    return holder if isinstance(holder, dict) else [*holder, holder[key]]


def damaged(good: Any) -> st.SearchStrategy[Any]:
    """``good`` with arbitrary JSON at one or two places, something left out, twice, or beside what it holds."""

    @st.composite
    def draw_damaged(draw: st.DrawFn) -> Any:
        value = good
        for _ in range(draw(st.integers(1, 2))):
            place = draw(st.sampled_from(_places(value)))
            if not place:
                return draw(ANY_JSON)
            how = draw(st.sampled_from([_replaced, _replaced, _replaced, _dropped, _doubled]))
            value = _with(value, place, _replaced(draw(ANY_JSON)) if how is _replaced else how)
        if isinstance(value, dict) and draw(st.booleans()):
            names = st.sampled_from(["self", "num_labels", "to_dict", "source_size", "id2label"])
            value = {**value, draw(names | st.text(max_size=8)): draw(ANY_JSON)}
        return value

    return draw_damaged()


def damaged_bytes(good: bytes) -> st.SearchStrategy[bytes]:
    """A file that was cut short, lengthened, or of which bytes were changed."""
    places = st.integers(0, len(good) - 1)

    def flipped(changes: list[tuple[int, int]]) -> bytes:
        data = bytearray(good)
        for place, mask in changes:
            data[place] ^= mask
        return bytes(data)

    return st.one_of(
        places.map(lambda end: good[:end]),
        st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4).map(flipped),
        st.binary(max_size=40).map(lambda more: good + more),
        st.binary(max_size=60),
        st.tuples(places, places).map(lambda ends: good[: min(ends)] + good[max(ends) :]),
    )


def as_file(data: Any) -> bytes:
    """JSON as a file holds it; what Python's own writer makes of it, NaN too."""
    return json.dumps(data).encode()


def read_or_refused(reader: Callable[..., Found], *given: Any) -> Found | None:
    """What a reader returns, or None where it refuses with an error of ours, in one short line."""
    try:
        return reader(*given)
    except PumaHubError as error:
        text = str(error)
        assert text.strip() and len(text.splitlines()) == 1 and len(text) <= LONGEST_MESSAGE, text[:3000]
        return None
