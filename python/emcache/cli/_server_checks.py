"""Checks of `doctor` based on a node's statistics and settings."""

from ._finding import Finding, fail, ok, warn
from ._output import printable
from ._settings import Settings
from ._units import duration, number, size

Stats = dict[str, str]

CLOCK_DOUBT = 3.0
CLOCK_FAULT = 60.0
MORE_CONNECTIONS = "look for programs that create a client for each request, or raise -c"


def _int(stats: Stats, name: str) -> int | None:
    text = stats.get(name, "")
    return int(text) if text.isdigit() else None


def check_login(server: Stats, settings: Settings) -> list[Finding]:
    """Check how clients log in."""
    wants = [how for how in ("ascii", "sasl") if server.get(f"auth_enabled_{how}") == "yes"]
    findings = []
    if settings.username:
        who = printable(settings.username)
        findings.append(ok("login", f"logged in as {who}"))
        if not settings.uses_tls:
            findings.append(
                warn(
                    "login", "the password is sent in clear text", "use TLS, or a network you trust"
                )
            )
    elif wants:
        findings.append(ok("login", "accepted without a login, although the server has users"))
    elif not server:
        findings.append(ok("login", "not needed"))
    elif _is_open(server) and not _wants_certificate(server):
        findings.append(
            warn(
                "login",
                "the server listens on all interfaces and does not require a login",
                "bind it to an internal address (-l), or use a firewall; see docs/security.md",
            )
        )
    else:
        findings.append(ok("login", "not required"))
    return findings


def _is_open(server: Stats) -> bool:
    """Return whether the server listens on all interfaces."""
    is_socket = server.get("domain_socket", "NULL") != "NULL"
    return not is_socket and server.get("inter") in ("NULL", "0.0.0.0", "::")


def _wants_certificate(server: Stats) -> bool:
    return server.get("ssl_enabled") == "yes" and server.get("ssl_verify_mode") in ("2", "3")


def check_item_limit(server: Stats) -> list[Finding]:
    """Report the item limit."""
    limit = _int(server, "item_size_max")
    if limit is None:
        return [ok("item limit", "the server does not report it")]
    return [ok("item limit", f"{size(limit)} with key and header (-I)")]


def check_refused(stats: Stats) -> list[Finding]:
    """Report refused values."""
    findings = []
    if large := _int(stats, "store_too_large"):
        findings.append(
            warn(
                "refused",
                f"{number(large)} values were too large, and deleted the old value of their key",
                "store less under one key, or start the server with a larger -I",
            )
        )
    if memory := _int(stats, "store_no_memory"):
        findings.append(
            warn("refused", f"{number(memory)} values did not fit into memory", "raise -m")
        )
    return findings


def check_connections(stats: Stats) -> list[Finding]:
    """Compare the connections with their limit."""
    used, limit = _int(stats, "curr_connections"), _int(stats, "max_connections")
    if used is None or limit is None:
        return [ok("connections", "the server does not report it")]
    text = f"{used} of {limit} are used"
    findings = []
    if stats.get("accepting_conns") == "0" or used >= limit:
        findings.append(fail("connections", f"{text}: no more are accepted", MORE_CONNECTIONS))
    elif used > 0.8 * limit:
        findings.append(warn("connections", text, MORE_CONNECTIONS))
    else:
        findings.append(ok("connections", text))
    times = (_int(stats, "listen_disabled_num") or 0) + (_int(stats, "rejected_connections") or 0)
    if times:
        findings.append(
            warn(
                "connections",
                f"the limit was reached {number(times)} times in {duration(_int(stats, 'uptime'))}",
                MORE_CONNECTIONS,
            )
        )
    return findings


def check_clock(stats: Stats, local_time: float) -> list[Finding]:
    """Compare the server's clock, which counts whole seconds, with the local clock."""
    server_time = _int(stats, "time")
    if server_time is None:
        return []
    apart = server_time + 0.5 - local_time
    text = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the local clock"
    advice = "set both by NTP; expiry times that are dates are wrong by this difference"
    if abs(apart) >= CLOCK_FAULT:
        return [fail("clock", text, advice)]
    if abs(apart) >= CLOCK_DOUBT:
        return [warn("clock", text, advice)]
    return [ok("clock", "agrees with the local clock")]


def check_memory(stats: Stats) -> list[Finding]:
    """Report memory use and evictions."""
    used, limit = _int(stats, "bytes"), _int(stats, "limit_maxbytes")
    if used is None or not limit:
        return []
    text = f"{size(used)} of {size(limit)} ({used * 100 // limit}%)"
    evicted, stored = _int(stats, "evictions") or 0, _int(stats, "total_items") or 0
    if not evicted:
        return [ok("memory", f"{text}, no evictions")]
    share = evicted / max(stored, evicted)
    unread = _int(stats, "evicted_unfetched") or 0
    text += f"; {number(evicted)} evicted of {number(stored)} stored in "
    text += f"{duration(_int(stats, 'uptime'))}, {unread * 100 // evicted}% of them never read"
    if share < 0.01:
        return [ok("memory", text)]
    return [warn("memory", text, "use more memory (-m), shorter expiry times, or fewer values")]


def check_features(server: Stats) -> list[Finding]:
    """Report features that are switched off."""
    findings = []
    if (_int(server, "udpport") or 0) > 0:
        findings.append(
            warn("udp", "UDP is enabled, which is abused for floods", "disable it: -U 0")
        )
    off = {
        "cas_enabled": ("cas", "gets returns no tokens, so cas does not protect (-C)"),
        "flush_enabled": ("flush", "flush_all is refused (-F)"),
        "dump_enabled": ("keys", "keys cannot be listed (-X)"),
        "lru_crawler": ("keys", "the LRU crawler is off: expired items stay, keys is refused"),
    }
    for name, (check, text) in off.items():
        if server.get(name) == "no":
            finding = warn(check, text, "start the server without this option, if you need it")
            findings.append(finding if name == "cas_enabled" else ok(check, text))
    return findings


def check_all(stats: Stats, server: Stats, settings: Settings, local_time: float) -> list[Finding]:
    """Run all checks of one node's answers."""
    return [
        *check_login(server, settings),
        *check_item_limit(server),
        *check_refused(stats),
        *check_connections(stats),
        *check_memory(stats),
        *check_clock(stats, local_time),
        *check_features(server),
    ]
