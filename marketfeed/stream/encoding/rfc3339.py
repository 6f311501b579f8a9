"""Times as text: RFC 3339 with nanoseconds."""

import datetime

import numpy as np
from numpy.typing import NDArray

_SECOND_NS = 1_000_000_000
_KEPT = 1024


class SecondTexts:
    """Writes the whole seconds of times, each distinct second once."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def split(self, times: NDArray[np.int64]) -> tuple[list[str], list[int]]:
        """Of each time (ns since the Unix epoch, UTC, shape (n,)) the text up to the point, and the ns after it."""
        seconds, fractions = np.divmod(times, _SECOND_NS)
        texts = self._texts
        begins = []
        for second in seconds.tolist():
            text = texts.get(second)
            if text is None:
                if len(texts) >= _KEPT:
                    texts.clear()
                text = texts[second] = _text(second)
            begins.append(text)
        return begins, fractions.tolist()


def _text(second: int) -> str:
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=second)
    return f"{moment.isoformat()}."
