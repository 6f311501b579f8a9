"""How frames get into many sockets: a wire is the descriptor of a non-blocking socket.

:class:`UringSender` hands all sends of a flush to the kernel in one system call (io_uring, Linux 5.6 and newer), so
that nothing of the interpreter runs between two of them; :class:`PlainSender` is one `write` each, where there is no
io_uring or it is not allowed.

Measured beside one `write` each, io_uring takes a tenth off the CPU of an update where each client gets a frame of its
own, and nothing where a hundred get the same. Tried and lost: the sends as one ``map(call, sends, frames)``, and huge
pages for the heap. bench/README.md has the numbers, and what is left.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from marketfeed.stream.link import Numbers, Sender

log = logging.getLogger("marketfeed.senders")

#: So many sends go to the kernel at once: their entries (64 bytes each) stay in the processor's cache.
_ENTRIES = 512
_ATTEMPTS = 100

# From linux/io_uring.h and asm-generic/unistd.h; the same on every architecture.
_SETUP, _ENTER = 425, 426
_OP_SEND = 26
_GETEVENTS = 1
_OFF_SQES = 0x10000000
_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000

#: struct io_uring_sqe, of which a send uses these.
_SQE = np.dtype(
    {
        "names": ["opcode", "fd", "addr", "len", "msg_flags", "user_data"],
        "formats": ["u1", "<i4", "<u8", "<u4", "<u4", "<u8"],
        "offsets": [0, 4, 16, 24, 28, 32],
        "itemsize": 64,
    }
)
#: struct io_uring_cqe; a send's flags are 0, so both of its last words are its result, as numpy adds them up soonest.
_CQE = np.dtype([("user_data", "<u8"), ("result", "<u8")])


def best_sender() -> Sender:
    """The fastest that this machine allows."""
    try:
        return UringSender()
    except (OSError, AttributeError, ValueError) as error:
        log.info("sending without io_uring: %s", error)
        return PlainSender()


class PlainSender:
    """One system call a frame."""

    def __call__(
        self, buffer: bytes, begins: Numbers, lengths: Numbers, wires: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        view, write = memoryview(buffer), os.write
        sent = []
        complete = True
        every = (np.broadcast_to(each, wires.shape).tolist() for each in (begins, lengths, wires))
        for begin, length, wire in zip(*every, strict=True):
            try:
                n = write(wire, view[begin : begin + length])
            except BlockingIOError:
                n = 0
            except OSError:
                n = -1
            complete &= n == length
            sent.append(n)
        return None if complete else np.array(sent)


class UringSender:
    """One system call for all frames.

    A send that may not wait is carried out while it is submitted: when the call returns, every result is there, and
    the kernel looks at the buffer no more (io_uring_enter(2); MSG_DONTWAIT keeps a full socket from being waited for).

    Raises:
        OSError: the kernel has no io_uring, or does not let this process use it.
    """

    def __init__(self) -> None:
        self._instead: PlainSender | None = None
        libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = libc.syscall
        params = (ctypes.c_uint32 * 30)()
        self._fd = libc.syscall(_SETUP, _ENTRIES, params)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            self._map(list(params))
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self, params: list[int]) -> None:
        # struct io_uring_params: entries of both rings, flags, ..., then the offsets of what is in each.
        self._entries, completions = params[0], params[1]
        sq, cq = params[10:20], params[20:30]
        length = max(sq[6] + 4 * self._entries, cq[5] + _CQE.itemsize * completions)
        rings = mmap.mmap(self._fd, length, flags=mmap.MAP_SHARED)
        entries = mmap.mmap(self._fd, _SQE.itemsize * self._entries, flags=mmap.MAP_SHARED, offset=_OFF_SQES)
        number = ctypes.c_uint32.from_buffer
        self._sq_tail, self._cq_head, self._cq_tail = number(rings, sq[1]), number(rings, cq[0]), number(rings, cq[1])
        #: where the next result is
        self._completed = 0
        # Which entry stands at each place of the ring. A flush begins with entry 0 wherever in the ring it begins: so
        # it never has to be parted where the ring ends, and what is written is small and near.
        self._places = np.frombuffer(rings, np.uint32, self._entries, sq[6])
        self._round = np.tile(np.arange(self._entries, dtype=np.uint32), 2)
        cqes = np.frombuffer(rings, _CQE, completions, cq[5])
        self._completions, self._results, self._which = completions, cqes["result"], cqes["user_data"]
        sqes = np.frombuffer(entries, _SQE, self._entries)
        sqes["opcode"] = _OP_SEND
        sqes["msg_flags"] = _MSG_DONTWAIT | _MSG_NOSIGNAL
        sqes["user_data"] = np.arange(self._entries)
        self._wires, self._addresses, self._lengths = sqes["fd"], sqes["addr"], sqes["len"]

    def __call__(
        self, buffer: bytes, begins: Numbers, lengths: Numbers, wires: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        if self._instead is not None:
            return self._instead(buffer, begins, lengths, wires)
        try:
            return self._send_all(buffer, begins, lengths, wires)
        except OSError as error:
            # What has gone out is not known: whoever was to get something has to connect again, and resumes.
            log.error("%s; %d connections are cut, and from now on it goes without io_uring", error, len(wires))
            self.close()
            self._instead = PlainSender()
            return np.full(len(wires), -1)

    def _send_all(
        self, buffer: bytes, begins: Numbers, lengths: Numbers, wires: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        # The bytes of an object lie behind its head, the last of which is the zero behind the bytes.
        addresses = begins + (id(buffer) + bytes.__basicsize__ - 1)
        n = len(wires)
        if n <= self._entries:
            return self._send(addresses, lengths, wires)
        sent = np.empty(n, np.int64)
        all_addresses, all_lengths = np.broadcast_to(addresses, n), np.broadcast_to(lengths, n)
        complete = True
        for begin in range(0, n, self._entries):
            run = slice(begin, begin + self._entries)
            some = self._send(all_addresses[run], all_lengths[run], wires[run])
            sent[run] = all_lengths[run] if some is None else some
            complete &= some is None
        return None if complete else sent

    def _send(self, addresses: Numbers, lengths: Numbers, wires: NDArray[np.int64]) -> NDArray[np.int64] | None:
        n = len(wires)
        self._wires[:n], self._addresses[:n], self._lengths[:n] = wires, addresses, lengths
        # As many results as entries have come so far, so this is where the ring goes on, too.
        place = self._completed % self._entries
        self._places[:] = self._round[self._entries - place : 2 * self._entries - place]
        self._sq_tail.value += n
        self._submit(n)
        # Results may come in any order: each says which entry it is of.
        first = self._completed % self._completions
        self._completed += n
        results, which = self._results[first : first + n], self._which[first : first + n]
        if len(results) < n:
            results = np.concatenate((results, self._results[: n - len(results)]))
            which = np.concatenate((which, self._which[: n - len(which)]))
        # None is longer than it was to be, and less than nothing is seen as very much, so all are whole just where
        # their sum is.
        if np.add.reduce(results) == (lengths * n if isinstance(lengths, int) else np.add.reduce(lengths)):
            self._cq_head.value = self._completed & 0xFFFFFFFF
            return None
        sent = np.empty(n, np.int64)
        sent[which.astype(np.int64)] = results.astype(np.int32)
        self._cq_head.value = self._completed & 0xFFFFFFFF
        sent[sent == -errno.EAGAIN] = 0
        return sent

    def _submit(self, n: int) -> None:
        """Have the kernel take so many sends and carry all of them out.

        Raises:
            OSError: it does not take them, again and again; what it has taken is not known.
        """
        submitted = 0
        for _ in range(_ATTEMPTS):
            taken = self._syscall(_ENTER, self._fd, n - submitted, 0, 0, None, 0)
            if taken >= 0:
                submitted += taken
            elif ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN, errno.EBUSY):
                break
            if submitted == n:
                while self._cq_tail.value - self._completed & 0xFFFFFFFF < n:
                    self._syscall(_ENTER, self._fd, 0, n, _GETEVENTS, None, 0)
                return
        number = ctypes.get_errno()
        raise OSError(number, f"io_uring took {submitted} of {n} sends: {os.strerror(number)}")

    def close(self) -> None:
        """Give it back to the kernel."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
