"""The classic commands: each takes the words of its line, and returns the answer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ._store import EXISTS, NOT_FOUND, STORED, Item, NotANumberError, Store, TooLargeError

OK, ERROR = b"OK\r\n", b"ERROR\r\n"
BAD_LINE = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
BAD_EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"
BAD_DELTA = b"CLIENT_ERROR invalid numeric delta argument\r\n"
NOT_A_NUMBER = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
NO_MEMORY = b"SERVER_ERROR out of memory storing object\r\n"
MAX_KEY = 250
_LEAST_MEMORY = 8
STATS = ("", "settings", "items", "slabs", "sizes", "conns")

Words = Sequence[bytes]


class RefusedError(Exception):
    """The command is refused with a line."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True)
class Upload:
    """A command that waits for its value."""

    length: int
    store: Callable[[bytes], bytes]
    """Stores the value, and returns the answer."""
    refusal: bytes | None = None
    """The answer if the value is read and dropped."""


def integer(word: bytes, low: int, high: int, refusal: bytes = BAD_LINE) -> int:
    """Read a decimal number in a range, or refuse the command."""
    if re.fullmatch(rb"[+-]?\d{1,20}", word) and low <= (number := int(word)) <= high:
        return number
    raise RefusedError(refusal)


def exptime_of(word: bytes, refusal: bytes = BAD_LINE) -> int:
    """Read an exptime."""
    return integer(word, -(1 << 31), (1 << 31) - 1, refusal)


def key_of(word: bytes) -> bytes:
    """Read a key."""
    if len(word) > MAX_KEY:
        raise RefusedError(BAD_LINE)
    return word


def guarded(store: Callable[[], bytes]) -> bytes:
    """Return the answer of a store, or the line of its error."""
    try:
        return store()
    except TooLargeError:
        return TOO_LARGE
    except MemoryError:
        return NO_MEMORY


class TextCommands:
    """The commands of one server."""

    def __init__(self, store: Store, version: str, stats: Callable[[str], dict[str, str]]) -> None:
        self._store = store
        self._count = store.counters
        self._version = version
        self._stats = stats
        retrieve, change = self._retrieve, self._change
        modes = (b"set", b"add", b"replace", b"append", b"prepend", b"cas")
        self.uploads: dict[bytes, Callable[[Words], Upload]] = dict.fromkeys(modes, self._storage)
        self.table: dict[bytes, Callable[[Words], bytes]] = {
            b"get": lambda words: retrieve(words),
            b"gets": lambda words: retrieve(words, with_cas=True),
            b"gat": lambda words: retrieve(words, touches=True),
            b"gats": lambda words: retrieve(words, with_cas=True, touches=True),
            b"incr": lambda words: change(words, 1),
            b"decr": lambda words: change(words, -1),
            b"delete": self._delete,
            b"touch": self._touch,
            b"flush_all": self._flush_all,
            b"version": lambda _: b"VERSION %s\r\n" % self._version.encode(),
            b"verbosity": lambda words: OK if len(words) > 1 else ERROR,
            b"cache_memlimit": self._memlimit,
            b"stats": self._show_stats,
        }

    def _retrieve(self, words: Words, *, with_cas: bool = False, touches: bool = False) -> bytes:
        expires = None
        keys = words[2:] if touches else words[1:]
        if not keys and not touches:
            return ERROR
        if touches:
            if len(words) < 2:
                return ERROR
            expires = self._store.expiry(exptime_of(words[1], BAD_EXPTIME))
        answer = []
        for key in map(key_of, keys):
            item = self._store.find(key)
            self.count_get(item is not None, touches=touches)
            if item is None:
                continue
            self._store.bump(key, item)
            if touches:
                item.expires = expires
            cas = b" %d" % item.cas if with_cas else b""
            head = b"VALUE %s %d %d%s\r\n" % (key, item.flags, len(item.value), cas)
            answer += [head, item.value, b"\r\n"]
        return b"".join((*answer, b"END\r\n"))

    def count_get(self, is_hit: bool, *, touches: bool = False) -> None:
        """Count a read."""
        kind = "hits" if is_hit else "misses"
        self._count["cmd_get"] += 1
        self._count[f"get_{kind}"] += 1
        if touches:
            self._count["cmd_touch"] += 1
            self._count[f"touch_{kind}"] += 1

    def _storage(self, words: Words) -> Upload:
        mode = words[0].decode()
        if len(words) < (6 if mode == "cas" else 5):
            raise RefusedError(ERROR)
        length = integer(words[4], 0, (1 << 31) - 3)
        try:
            key = key_of(words[1])
            flags = integer(words[2], 0, (1 << 32) - 1)
            exptime = exptime_of(words[3])
            cas = integer(words[5], 0, (1 << 64) - 1) if mode == "cas" else None
        except RefusedError as error:
            return Upload(length, bytes, error.line)
        try:
            self._store.check_size(key, length, flags)
        except TooLargeError:
            if mode == "set":
                self._store.remove(key)
            return Upload(length, bytes, TOO_LARGE)

        def store(value: bytes) -> bytes:
            item = self._store.new(value, flags, self._store.expiry(exptime))
            kind = "set" if mode == "cas" else mode
            self._count["cmd_set"] += 1
            result = self._store.save(kind, key, item, cas)
            if cas is not None:
                self.count_cas(result)
            return result + b"\r\n"

        return Upload(length, lambda value: guarded(lambda: store(value)))

    def count_cas(self, result: bytes) -> None:
        """Count a store with a CAS."""
        kinds = {STORED: "hits", EXISTS: "badval", NOT_FOUND: "misses"}
        self._count[f"cas_{kinds.get(result, 'misses')}"] += 1

    def _change(self, words: Words, sign: int) -> bytes:
        if len(words) < 3:
            return ERROR
        key = key_of(words[1])
        delta = integer(words[2], 0, (1 << 64) - 1, BAD_DELTA)
        name = "incr" if sign > 0 else "decr"
        item = self._store.find(key)
        if item is None:
            self._count[f"{name}_misses"] += 1
            return NOT_FOUND + b"\r\n"
        try:
            number = self._store.add_delta(key, item, sign * delta)
        except NotANumberError:
            return NOT_A_NUMBER
        self._count[f"{name}_hits"] += 1
        return b"%d\r\n" % number

    def _delete(self, words: Words) -> bytes:
        if len(words) < 2:
            return ERROR
        key = key_of(words[1])
        is_hit = self._store.find(key) is not None
        self._count["delete_hits" if is_hit else "delete_misses"] += 1
        self._store.remove(key)
        return b"DELETED\r\n" if is_hit else b"NOT_FOUND\r\n"

    def _touch(self, words: Words) -> bytes:
        if len(words) < 3:
            return ERROR
        key = key_of(words[1])
        expires = self._store.expiry(exptime_of(words[2], BAD_EXPTIME))
        item = self._store.find(key)
        self._count["cmd_touch"] += 1
        self._count["touch_misses" if item is None else "touch_hits"] += 1
        if item is None:
            return b"NOT_FOUND\r\n"
        item.expires = expires
        self._store.bump(key, item)
        return b"TOUCHED\r\n"

    def _flush_all(self, words: Words) -> bytes:
        arguments = [word for word in words[1:] if word != b"noreply"]
        self._store.flush(exptime_of(arguments[0], BAD_EXPTIME) if arguments else 0)
        return OK

    def _memlimit(self, words: Words) -> bytes:
        if len(words) < 2:
            return ERROR
        megabytes = integer(words[1], 0, 1 << 31)
        if megabytes < _LEAST_MEMORY:
            return b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"
        self._store.memory_limit = megabytes << 20
        self._store.evict()
        return OK

    def _show_stats(self, words: Words) -> bytes:
        kind = words[1].decode(errors="replace") if len(words) > 1 else ""
        if kind == "reset":
            self._count.clear()
            return b"RESET\r\n"
        if kind not in STATS:
            return ERROR
        lines = [f"STAT {name} {value}\r\n" for name, value in self._stats(kind).items()]
        return "".join((*lines, "END\r\n")).encode()


def item_summary(store: Store, key: bytes, item: Item) -> bytes:
    """Return the words of ``me`` about an item."""
    idle = int(store.now() - item.accessed)
    fetched = b"yes" if item.fetched else b"no"
    return b"exp=%d la=%d cas=%d fetch=%s cls=1 size=%d" % (
        store.ttl(item),
        idle,
        item.cas,
        fetched,
        item.size(key),
    )
