"""The meta commands, with the flags of memcached 1.6.45."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from ._store import EXISTS, NOT_FOUND, NOT_STORED, STORED, Item, NotANumberError, Store
from ._store import TooLargeError as TooLarge
from ._text import (
    BAD_LINE,
    ERROR,
    NOT_A_NUMBER,
    TOO_LARGE,
    RefusedError,
    TextCommands,
    Upload,
    Words,
    exptime_of,
    guarded,
    integer,
    item_summary,
    key_of,
)

_BAD_TOKEN = b"CLIENT_ERROR bad token in command line format\r\n"
_BAD_FLAG = b"CLIENT_ERROR invalid or duplicate flag\r\n"
_FLAGS = frozenset("bcfhklqstuvxCDEFIJLMNOPRST")
_CODES = {STORED: b"HD", NOT_STORED: b"NS", EXISTS: b"EX", NOT_FOUND: b"NF"}
_MODES = {"S": "set", "E": "add", "R": "replace", "A": "append", "P": "prepend"}
_SIGNS = {"I": 1, "+": 1, "INCR": 1, "D": -1, "-": -1, "DECR": -1}
_MAX_U32, _MAX_U64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass
class Request:
    """A meta command: its key, and its flags in the order of the line."""

    name: bytes
    key: bytes
    shown_key: bytes
    flags: dict[str, bytes] = field(default_factory=dict)

    def number(self, flag: str, high: int = _MAX_U64) -> int | None:
        """Return the argument of a flag as an unsigned number; None without the flag."""
        return integer(self.flags[flag], 0, high, self._bad_token) if flag in self.flags else None

    def exptime(self, flag: str) -> int | None:
        """Return the argument of a flag as an exptime; None without the flag."""
        return exptime_of(self.flags[flag], self._bad_token) if flag in self.flags else None

    @property
    def _bad_token(self) -> bytes:
        return _BAD_FLAG if self.name == b"ma" else _BAD_TOKEN

    def answer(self, code: bytes, *words: bytes, item: Item | None = None) -> bytes:
        """Return a line: the code, the flags that the request wants back, and further words."""
        return b" ".join((code, *self.echoes(item), *words)) + b"\r\n"

    def echoes(self, item: Item | None = None) -> list[bytes]:
        """Return the flags `O` and `k`, in the order of the request."""
        return [self.echo(flag, item) for flag in self.flags if flag in "Ok"]

    def echo(self, flag: str, item: Item | None) -> bytes:
        """Return the opaque, or the key, in base64 if it was stored in that form."""
        if flag == "O":
            return b"O" + self.flags["O"]
        if item is None:
            return b"k" + self.shown_key + (b" b" if "b" in self.flags else b"")
        if item.binary_key:
            return b"k" + base64.b64encode(self.key) + b" b"
        return b"k" + self.key


def parse(words: Words, first_flag: int = 2) -> Request:
    """Read the key and the flags of a meta command, or refuse it."""
    shown = key_of(words[1])
    key = shown
    request = Request(words[0], key, shown)
    for word in words[first_flag:]:
        flag = chr(word[0])
        if flag not in _FLAGS or flag in request.flags:
            wrong = b"invalid" if flag not in _FLAGS else b"duplicate"
            line = b"CLIENT_ERROR %s flag\r\n" % wrong
            raise RefusedError(_BAD_FLAG if words[0] == b"ma" else line)
        request.flags[flag] = word[1:]
    if "b" in request.flags:
        try:
            request.key = base64.b64decode(shown, validate=True)
        except binascii.Error:
            raise RefusedError(b"CLIENT_ERROR error decoding key\r\n") from None
    return request


class MetaCommands:
    """The meta commands of one server."""

    def __init__(self, store: Store, text: TextCommands) -> None:
        self._store = store
        self._count = store.counters
        self._text = text
        self.uploads: dict[bytes, Callable[[Words], Upload]] = {b"ms": self._set}
        self.table: dict[bytes, Callable[[Words], bytes]] = {
            b"mg": self._with_key(self._get),
            b"md": self._with_key(self._delete),
            b"ma": self._with_key(self._arithmetic),
            b"me": self._with_key(self._debug),
            b"mn": lambda _: b"MN\r\n",
        }

    def _with_key(self, command: Callable[[Request], bytes]) -> Callable[[Words], bytes]:
        def call(words: Words) -> bytes:
            return command(parse(words)) if len(words) > 1 else ERROR

        return call

    # -- mg --------------------------------------------------------------------------------------

    def _get(self, request: Request) -> bytes:
        vivify, recache, touch = (request.exptime(flag) for flag in "NRT")
        key, flags = request.key, request.flags
        item = self._store.find(key)
        has_won = False
        if item is None and vivify is not None:
            item = self._store.new(b"", 0, self._store.expiry(vivify), request.number("E"))
            item.binary_key = "b" in flags
            self._store.put(key, item)
            has_won = True
        self._text.count_get(item is not None, touches=touch is not None)
        if item is None:
            return b"" if "q" in flags else request.answer(b"EN")
        words = []
        for flag in flags:
            if flag == "T" and touch is not None:
                item.expires = self._store.expiry(touch)
            elif flag == "R" and recache is not None and not item.token_sent and not has_won:
                has_won = self._needs_recache(item, recache)
            elif shown := self._shown(flag, request, item):
                words.append(shown)
        words += self._tokens(item, has_won=has_won)
        if "u" not in flags:
            self._store.bump(key, item)
        if "v" not in flags or request.number("C") == item.cas:
            return b" ".join((b"HD", *words)) + b"\r\n"
        head = b" ".join((b"VA %d" % len(item.value), *words))
        return b"%s\r\n%s\r\n" % (head, item.value)

    def _needs_recache(self, item: Item, recache: int) -> bool:
        limit = self._store.expiry(recache)
        return item.expires is not None and limit is not None and item.expires < limit

    def _tokens(self, item: Item, *, has_won: bool) -> list[bytes]:
        """Return `W` for the one client that is to compute the value, and what others are told."""
        words = [b"Z"] if item.token_sent else []
        if item.stale:
            words.append(b"X")
            has_won = has_won or not item.token_sent
        if has_won:
            words.append(b"W")
            item.token_sent = True
        return words

    def _shown(self, flag: str, request: Request, item: Item) -> bytes:
        """Return the word of a flag that shows something about an item."""
        match flag:
            case "s":
                return b"s%d" % len(item.value)
            case "t":
                return b"t%d" % self._store.ttl(item)
            case "c":
                return b"c%d" % item.cas
            case "f":
                return b"f%d" % item.flags
            case "l":
                return b"l%d" % (self._store.now() - item.accessed)
            case "h":
                return b"h%d" % item.fetched
            case "O" | "k":
                return request.echo(flag, item)
        return b""

    # -- ms --------------------------------------------------------------------------------------

    def _set(self, words: Words) -> Upload:
        if len(words) < 3:
            raise RefusedError(ERROR if len(words) < 2 else BAD_LINE)
        length = integer(words[2], 0, (1 << 31) - 3)
        try:
            return self._upload(parse(words, first_flag=3), length)
        except RefusedError as error:
            return Upload(length, bytes, error.line)

    def _upload(self, request: Request, length: int) -> Upload:
        key = request.key
        flags = request.number("F", _MAX_U32) or 0
        exptime = request.exptime("T") or 0
        vivify, cas, new_cas = request.exptime("N"), request.number("C"), request.number("E")
        mode = _MODES.get(request.flags.get("M", b"S").decode(errors="replace").upper())
        if mode is None:
            raise RefusedError(b"CLIENT_ERROR invalid mode\r\n")
        try:
            self._store.check_size(key, length, flags)
        except TooLarge:
            self._store.remove(key)
            return Upload(length, bytes, TOO_LARGE)

        def store(value: bytes) -> bytes:
            item = self._store.new(value, flags, self._store.expiry(exptime), new_cas)
            item.binary_key = "b" in request.flags
            self._count["cmd_set"] += 1
            chosen = mode
            is_added_to = mode in ("append", "prepend") and vivify is not None
            if is_added_to and self._store.find(key) is None:
                chosen, item.expires = "set", self._store.expiry(vivify or 0)
            result = self._store.save(chosen, key, item, cas, or_stale="I" in request.flags)
            if cas is not None:
                self._text.count_cas(result)
            if result == STORED and "q" in request.flags:
                return b""
            return self._stored(request, item, _CODES[result])

        return Upload(length, lambda value: guarded(lambda: store(value)))

    def _stored(self, request: Request, item: Item, code: bytes) -> bytes:
        words = []
        for flag in request.flags:
            if flag in "Ok":
                words.append(request.echo(flag, None if flag == "k" else item))
            elif flag == "c":
                words.append(b"c%d" % (item.cas if code == b"HD" else 0))
            elif flag == "s":
                words.append(b"s%d" % len(item.value))
        return b" ".join((code, *words)) + b"\r\n"

    # -- md, ma, me ------------------------------------------------------------------------------

    def _delete(self, request: Request) -> bytes:
        cas, new_cas, exptime = request.number("C"), request.number("E"), request.exptime("T")
        key, flags = request.key, request.flags
        item = self._store.find(key)
        if item is None:
            self._count["delete_misses"] += 1
            return request.answer(b"NF")
        if cas is not None and cas != item.cas:
            return request.answer(b"EX")
        if "x" in flags:
            empty = self._store.new(b"", 0, item.expires, new_cas)
            empty.binary_key = item.binary_key
            self._store.put(key, empty)
            item = empty
        if "I" in flags:
            item.stale, item.token_sent = True, False
            item.cas = self._store.next_cas(new_cas)
        if "I" in flags or "x" in flags:
            if exptime is not None:
                item.expires = self._store.expiry(exptime)
        else:
            self._store.remove(key)
            self._count["delete_hits"] += 1
        return b"" if "q" in flags else request.answer(b"HD")

    def _arithmetic(self, request: Request) -> bytes:
        vivify, touch = request.exptime("N"), request.exptime("T")
        cas, new_cas = request.number("C"), request.number("E")
        initial = request.number("J") or 0
        delta = request.number("D")
        delta = 1 if delta is None else delta
        mode = request.flags.get("M", b"I").decode(errors="replace").upper()
        if mode not in _SIGNS:
            raise RefusedError(b"CLIENT_ERROR invalid mode for ma M token\r\n")
        name = "incr" if _SIGNS[mode] > 0 else "decr"
        key, item = request.key, self._store.find(request.key)
        if item is None:
            self._count[f"{name}_misses"] += 1
            if vivify is None:
                return request.answer(b"NF")
            number = initial
            item = self._store.new(b"%d" % initial, 0, self._store.expiry(vivify), new_cas)
            item.binary_key = "b" in request.flags
            self._store.put(key, item)
        elif cas and cas != item.cas and item.value:
            return request.answer(b"EX")
        else:
            try:
                number = self._store.add_delta(key, item, _SIGNS[mode] * delta, new_cas)
            except NotANumberError:
                return NOT_A_NUMBER
            self._count[f"{name}_hits"] += 1
            item = self._store.items[key]
            if touch is not None:
                item.expires = self._store.expiry(touch)
        if "q" in request.flags:
            return b""
        shown = [self._shown(flag, request, item) for flag in request.flags if flag in "tckO"]
        if "v" not in request.flags:
            return b" ".join((b"HD", *shown)) + b"\r\n"
        value = b"%d" % number
        return b" ".join((b"VA %d" % len(value), *shown)) + b"\r\n" + value + b"\r\n"

    def _debug(self, request: Request) -> bytes:
        self._count["cmd_meta"] += 1
        item = self._store.find(request.key)
        if item is None:
            return b"EN\r\n"
        return b"ME %s %s\r\n" % (request.shown_key, item_summary(self._store, request.key, item))
