"""Times as text: RFC 3339 with nanoseconds."""

import datetime
import re

import numpy as np
from numpy.typing import NDArray

_SECOND_NS = 1_000_000_000
_KEPT = 1024
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)


def time_from_text(text: str) -> int | None:
    """An RFC 3339 time as ns since the Unix epoch; digits beyond the ninth are cut. None = it is none."""
    match = _RFC3339.fullmatch(text)
    if match:
        day, clock, fraction, zone = match.groups()
        try:
            whole = datetime.datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
            return int(whole.timestamp()) * _SECOND_NS + int((fraction or "0").ljust(9, "0"))
        except (ValueError, OverflowError):
            pass
    return None


def text_from_time(time_ns: int) -> str:
    """That time in RFC 3339 with nanoseconds, UTC."""
    second, fraction = divmod(time_ns, _SECOND_NS)
    return f"{_text(second)}{fraction:09d}Z"


class SecondTexts:
    """Writes the whole seconds of times, each distinct second once."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def split(self, times: NDArray[np.int64]) -> tuple[list[str], list[int]]:
        """Of each time (ns since the Unix epoch, UTC, shape (n,)) the text up to the point, and the ns after it."""
        seconds, fractions = np.divmod(times, _SECOND_NS)
        return [self.text(second) for second in seconds.tolist()], fractions.tolist()

    def text(self, second: int) -> str:
        """Of a whole second, up to the point that its fraction follows."""
        text = self._texts.get(second)
        if text is None:
            if len(self._texts) >= _KEPT:
                self._texts.clear()
            text = self._texts[second] = _text(second)
        return text


def _text(second: int) -> str:
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=second)
    return f"{moment.isoformat()}."
