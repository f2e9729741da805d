"""What `doctor` makes of a node's own statistics and settings."""

from ._finding import Finding, doubt, fault, found
from ._output import printable
from ._settings import Settings
from ._top_table import duration, number, size

Stats = dict[str, str]

CLOCK_DOUBT = 3.0
CLOCK_FAULT = 60.0
MORE_CONNECTIONS = "look for clients that are made for each request; or raise -c"


def _int(stats: Stats, name: str) -> int | None:
    text = stats.get(name, "")
    return int(text) if text.isdigit() else None


def check_login(server: Stats, asked: Settings) -> list[Finding]:
    """Say who is let in."""
    wants = [how for how in ("ascii", "sasl") if server.get(f"auth_enabled_{how}") == "yes"]
    findings = []
    if asked.username:
        who = printable(asked.username)
        findings.append(found("login", f"logged in as {who}"))
        if not asked.uses_tls:
            findings.append(
                doubt("login", "the password travels in clear", "use TLS, or a network you trust")
            )
    elif wants:
        findings.append(found("login", "let in without a login, though it has users"))
    elif not server:
        findings.append(found("login", "none was needed"))
    elif _is_open(server) and not _wants_certificate(server):
        findings.append(
            doubt(
                "login",
                "it listens on all interfaces, and asks for no login",
                "bind it to an internal address (-l), or a firewall; see docs/security.md",
            )
        )
    else:
        findings.append(found("login", "none is asked for"))
    return findings


def _is_open(server: Stats) -> bool:
    """Whether it listens on all interfaces."""
    is_socket = server.get("domain_socket", "NULL") != "NULL"
    return not is_socket and server.get("inter") in ("NULL", "0.0.0.0", "::")


def _wants_certificate(server: Stats) -> bool:
    return server.get("ssl_enabled") == "yes" and server.get("ssl_verify_mode") in ("2", "3")


def check_item_limit(server: Stats) -> list[Finding]:
    """Say how large a value may be."""
    limit = _int(server, "item_size_max")
    if limit is None:
        return [found("item limit", "the server does not say")]
    return [found("item limit", f"{size(limit)} with key and header (-I)")]


def check_refused(stats: Stats) -> list[Finding]:
    """Say which values were refused."""
    findings = []
    if large := _int(stats, "store_too_large"):
        findings.append(
            doubt(
                "refused",
                f"{number(large)} values were over the item limit, and lost what their key had",
                "store less under one key, or start the server with a larger -I",
            )
        )
    if memory := _int(stats, "store_no_memory"):
        findings.append(
            doubt("refused", f"{number(memory)} values found no memory", "give it more: -m")
        )
    return findings


def check_connections(stats: Stats) -> list[Finding]:
    """Compare the connections with their limit."""
    used, limit = _int(stats, "curr_connections"), _int(stats, "max_connections")
    if used is None or limit is None:
        return [found("connections", "the server does not say")]
    text = f"{used} of {limit} are used"
    findings = []
    if stats.get("accepting_conns") == "0" or used >= limit:
        findings.append(fault("connections", f"{text}: no more are let in", MORE_CONNECTIONS))
    elif used > 0.8 * limit:
        findings.append(doubt("connections", text, MORE_CONNECTIONS))
    else:
        findings.append(found("connections", text))
    times = (_int(stats, "listen_disabled_num") or 0) + (_int(stats, "rejected_connections") or 0)
    if times:
        findings.append(
            doubt(
                "connections",
                f"the limit was hit {number(times)} times in {duration(_int(stats, 'uptime'))}",
                MORE_CONNECTIONS,
            )
        )
    return findings


def check_clock(stats: Stats, here: float) -> list[Finding]:
    """Compare the server's clock with the one here; it counts whole seconds."""
    there = _int(stats, "time")
    if there is None:
        return []
    apart = there + 0.5 - here
    text = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the clock here"
    advice = "set both by NTP: expiry times given as a date are off by as much"
    if abs(apart) >= CLOCK_FAULT:
        return [fault("clock", text, advice)]
    if abs(apart) >= CLOCK_DOUBT:
        return [doubt("clock", text, advice)]
    return [found("clock", "agrees with the one here")]


def check_memory(stats: Stats) -> list[Finding]:
    """Say how full it is, and what was pushed out."""
    used, limit = _int(stats, "bytes"), _int(stats, "limit_maxbytes")
    if used is None or not limit:
        return []
    text = f"{size(used)} of {size(limit)} ({used * 100 // limit}%)"
    evicted, stored = _int(stats, "evictions") or 0, _int(stats, "total_items") or 0
    if not evicted:
        return [found("memory", f"{text}, nothing was evicted")]
    share = evicted / max(stored, evicted)
    unread = _int(stats, "evicted_unfetched") or 0
    text += f"; {number(evicted)} evicted of {number(stored)} stored in "
    text += f"{duration(_int(stats, 'uptime'))}, {unread * 100 // evicted}% of them never read"
    if share < 0.01:
        return [found("memory", text)]
    return [doubt("memory", text, "more memory (-m), shorter expiry times, or less to store")]


def check_features(server: Stats) -> list[Finding]:
    """Name what was turned off."""
    findings = []
    if (_int(server, "udpport") or 0) > 0:
        findings.append(
            doubt("udp", "it answers UDP, which others abuse for floods", "turn it off: -U 0")
        )
    off = {
        "cas_enabled": ("cas", "gets gives no tokens, so cas does not protect (-C)"),
        "flush_enabled": ("flush", "flush_all is refused (-F)"),
        "dump_enabled": ("keys", "keys cannot be listed (-X)"),
        "lru_crawler": ("keys", "the LRU crawler is off: expired items stay, keys is refused"),
    }
    for name, (check, text) in off.items():
        if server.get(name) == "no":
            finding = doubt(check, text, "start it otherwise, if you need it")
            findings.append(finding if name == "cas_enabled" else found(check, text))
    return findings


def check_all(stats: Stats, server: Stats, asked: Settings, here: float) -> list[Finding]:
    """Make everything of one node's answers."""
    return [
        *check_login(server, asked),
        *check_item_limit(server),
        *check_refused(stats),
        *check_connections(stats),
        *check_memory(stats),
        *check_clock(stats, here),
        *check_features(server),
    ]
