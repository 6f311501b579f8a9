"""Which number stands for which instrument: (feed, symbol) <-> id, dense from 0, never reused."""

import numpy as np
from numpy.typing import NDArray

#: The longest name, in bytes of UTF-8, of a symbol or a feed.
NAME_BYTES = 32

#: One row of the directory.
INSTRUMENT = np.dtype([("symbol", f"S{NAME_BYTES}"), ("feed", "<u2")])
#: One row of the table of feeds.
FEED = np.dtype([("name", f"S{NAME_BYTES}")])


class DirectoryFull(Exception):
    """There is no room for one more instrument or feed."""


class InstrumentDirectory:
    """A table of fixed capacity. One writer, any number of readers, in this process or others.

    The writer fills a row first and raises the count after it, and a row never changes again.

    Args:
        rows: shape (capacity,), INSTRUMENT.
        feeds: shape (feed capacity,), FEED.
        counts: shape (2,), u8: how many rows and how many feeds are in use.
    """

    def __init__(self, rows: NDArray[np.void], feeds: NDArray[np.void], counts: NDArray[np.uint64]) -> None:
        self.capacity = len(rows)
        self.feed_capacity = len(feeds)
        self._rows = rows
        self._feed_rows = feeds
        self._counts = counts.data
        # What has been read of the tables so far, as Python objects; follows the counts.
        self._symbols: list[str] = []
        self._feed_of: list[int] = []
        self._ids: dict[tuple[int, str], int] = {}
        self._feeds: list[str] = []
        self._follow()

    @classmethod
    def on_heap(cls, capacity: int, feeds: int = 64) -> "InstrumentDirectory":
        """A directory of this process alone."""
        return cls(np.zeros(capacity, INSTRUMENT), np.zeros(feeds, FEED), np.zeros(2, np.uint64))

    def reader(self) -> "InstrumentDirectory":
        """The same tables for another thread: what has been read of them is remembered apart."""
        return InstrumentDirectory(self._rows, self._feed_rows, np.asarray(self._counts))

    def __len__(self) -> int:
        count: int = self._counts[0]
        return count

    def add_feed(self, name: str) -> int:
        """The id of the feed of that name, a new one where it is not known. Only the one writer may call this.

        Raises:
            ValueError: not a name (see :func:`check_name`).
            DirectoryFull: no room for one more feed.
        """
        self._follow()
        if name in self._feeds:
            return self._feeds.index(name)
        encoded = check_name(name)
        if ":" in name or "/" in name:
            raise ValueError(f"a feed's name has no ':' or '/': {name!r}")
        if len(self._feeds) >= len(self._feed_rows):
            raise DirectoryFull(f"no room for feed {name!r}: {len(self._feed_rows)} are in use")
        self._feed_rows[len(self._feeds)] = (encoded,)
        self._counts[1] += 1
        self._follow()
        return len(self._feeds) - 1

    def add(self, feed: int, symbol: str) -> int:
        """The id of that instrument, a new one where it is not known. Only the one writer may call this.

        Raises:
            ValueError: not a name (see :func:`check_name`), or no such feed.
            DirectoryFull: no room for one more instrument.
        """
        known = self._ids.get((feed, symbol))
        if known is not None:
            return known
        self._follow()
        encoded = check_name(symbol)
        if not 0 <= feed < len(self._feeds):
            raise ValueError(f"there is no feed {feed}")
        if len(self._symbols) >= self.capacity:
            raise DirectoryFull(f"no room for {symbol!r}: {self.capacity} instruments are in use")
        self._rows[len(self._symbols)] = (encoded, feed)
        self._counts[0] += 1
        self._follow()
        return self._ids[feed, symbol]

    def find(self, feed: int, symbol: str) -> int | None:
        """The id of that instrument, or None."""
        self._follow()
        return self._ids.get((feed, symbol))

    def symbols(self) -> list[str]:
        """The symbol of each id; ``symbols()[id]``. Grows at its end; not to be changed."""
        self._follow()
        return self._symbols

    def feed_of(self) -> list[int]:
        """The feed's id of each instrument id; ``feed_of()[id]``. Grows at its end; not to be changed."""
        self._follow()
        return self._feed_of

    def feeds(self) -> list[str]:
        """The name of each feed id; ``feeds()[id]``. Grows at its end; not to be changed."""
        self._follow()
        return self._feeds

    def of_feed(self, feed: int) -> NDArray[np.bool_]:
        """Which ids are of that feed, shape (capacity,)."""
        mine: NDArray[np.bool_] = self._rows["feed"] == feed
        mine[len(self) :] = False
        return mine

    def _follow(self) -> None:
        # The count of instruments is taken first: so the feed of each is among the feeds that are read after it.
        end, feeds = self._counts.tolist()
        begin = len(self._symbols)
        if feeds > len(self._feeds):
            for row in self._feed_rows["name"][len(self._feeds) : feeds]:
                self._feeds.append(bytes(row).decode())
        if begin == end:
            return
        for number, (symbol, feed) in enumerate(self._rows[begin:end].tolist(), begin):
            name = symbol.decode()
            self._symbols.append(name)
            self._feed_of.append(feed)
            self._ids[feed, name] = number


def check_name(name: str) -> bytes:
    """The name as UTF-8.

    Raises:
        ValueError: empty, longer than :data:`NAME_BYTES`, or with a control character, blank or comma in it.
    """
    encoded = name.encode(errors="surrogatepass")
    if not 0 < len(encoded) <= NAME_BYTES:
        raise ValueError(f"a name has 1 to {NAME_BYTES} bytes of UTF-8: {name[:64]!r}")
    if not name.isprintable() or any(c.isspace() or c == "," for c in name):
        raise ValueError(f"a name has no control characters, blanks or commas: {name!r}")
    return encoded
