"""What people look for, and the page that answers: for the search of the site and other engines."""

import html
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

WORDS = {
    "stampede": "caching-patterns#stampedes-one-computation-for-all-processes",
    "cache stampede": "caching-patterns#stampedes-one-computation-for-all-processes",
    "dogpile": "caching-patterns#stampedes-one-computation-for-all-processes",
    "thundering herd": "caching-patterns#stampedes-one-computation-for-all-processes",
    "single flight": "cached#stampede-protection-single-flight",
    "lease": "caching-patterns#stampedes-one-computation-for-all-processes",
    "stale-while-revalidate": "caching-patterns#stale-while-revalidate-stale-if-error",
    "hot key": "caching-patterns#hot-keys-and-a-local-cache",
    "hot keys": "caching-patterns#hot-keys-and-a-local-cache",
    "local cache": "caching-patterns#hot-keys-and-a-local-cache",
    "decorator": "cached",
    "memoize": "cached",
    "big key": "large-values",
    "big value": "large-values",
    "large value": "large-values",
    "item too large": "large-values",
    "object too large for cache": "large-values",
    "ketama": "routing#rules-of-other-clients",
    "consistent hashing": "routing",
    "hash ring": "routing",
    "rendezvous": "routing#why-rendezvous-for-new-clusters",
    "failover": "failover",
    "dead node": "failover",
    "gutter": "failover#options",
    "health check": "operations#health-checks",
    "healthcheck": "operations#health-checks",
    "readiness": "cookbook/kubernetes",
    "liveness": "cookbook/kubernetes",
    "probe": "cookbook/kubernetes",
    "helm": "cookbook/kubernetes",
    "kubernetes": "cookbook/kubernetes",
    "headless service": "cookbook/kubernetes",
    "aws": "clusters#aws-elasticache",
    "elasticache": "clusters#aws-elasticache",
    "gcp": "clusters#gcp-memorystore",
    "memorystore": "clusters#gcp-memorystore",
    "sentry": "observability",
    "datadog": "observability",
    "grafana": "observability",
    "prometheus": "observability#prometheus",
    "opentelemetry": "observability#opentelemetry",
    "celery": "cookbook/flask-celery",
    "flask": "cookbook/flask-celery",
    "fastapi": "integrations#fastapi-and-starlette",
    "starlette": "integrations#fastapi-and-starlette",
    "django": "integrations#django",
    "graphql": "cookbook/graphql",
    "dataloader": "cookbook/graphql",
    "pytest": "testing",
    "mock": "testing#without-memcached-the-fake-server",
    "fake": "testing#without-memcached-the-fake-server",
    "alpine": "compatibility#platforms",
    "musl": "compatibility#platforms",
    "windows": "compatibility#platforms",
    "macos": "compatibility#platforms",
    "arm": "compatibility#platforms",
    "uvloop": "compatibility#event-loops",
    "expire": "many-keys-and-times#expiration-times",
    "expiry": "many-keys-and-times#expiration-times",
    "expiration": "many-keys-and-times#expiration-times",
    "ttl": "many-keys-and-times#expiration-times",
    "fork": "sync#processes",
    "preload": "sync#processes",
    "gunicorn": "sync#frameworks",
    "gevent": "sync#event-loops-and-green-threads",
    "eventlet": "sync#event-loops-and-green-threads",
    "threads": "sync#threads",
    "lock": "tags-locks-limits#locks",
    "distributed lock": "tags-locks-limits#locks",
    "rate limit": "tags-locks-limits#rate-limits",
    "throttle": "tags-locks-limits#rate-limits",
    "tags": "tags-locks-limits#tags-invalidate-many-values-at-once",
    "serverless": "start#serverless-functions-aws-lambda",
    "lambda": "start#serverless-functions-aws-lambda",
    "redis": "comparison#emcache-or-redis-py-with-redis-or-valkey",
    "valkey": "comparison#emcache-or-redis-py-with-redis-or-valkey",
    "alternatives": "comparison",
    "blue-green": "cookbook/blue-green",
    "resharding": "migration",
    "add a node": "migration",
    "timeout": "tuning#timeouts",
    "retry": "guarantees#retries",
    "tls": "security#tls-in-five-minutes",
    "ssl": "security#tls-in-five-minutes",
    "password": "security#authentication-in-five-minutes",
    "sasl": "security#authentication-in-five-minutes",
    "pickle": "values-and-keys#serializers",
    "compression": "values-and-keys#compression",
    "pydantic": "values-and-keys#values-of-one-type",
    "twemproxy": "clusters#proxies-twemproxy-memcacheds-proxy-mcrouter",
    "mcrouter": "clusters#proxies-twemproxy-memcacheds-proxy-mcrouter",
}

_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def anchor_of(title: str) -> str:
    """Return the anchor that MyST gives a heading, as a forge does."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def add_words(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Add index entries below the headings that answer; the search puts them first."""
    wanted: dict[str, list[str]] = {}
    for word, target in WORDS.items():
        page, _, anchor = target.partition("#")
        if page == docname:
            wanted.setdefault(anchor, []).append(word)
    if not wanted:
        return
    headings = {anchor_of(match[1]): match.end() for match in _HEADING.finditer(source[0])}
    title = _HEADING.search(source[0])
    if title is None:
        return
    places: dict[int, list[str]] = {}
    for anchor, words in wanted.items():
        places.setdefault(headings.get(anchor, title.end()), []).extend(words)
    for place, words in sorted(places.items(), reverse=True):
        entries = "\n".join(f"   ! single: {word}" for word in words)
        block = f"\n\n```{{eval-rst}}\n.. index::\n{entries}\n```\n"
        source[0] = source[0][:place] + block + source[0][place:]


def add_description(
    app: Sphinx, _page: str, _template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Describe a page by its first paragraph, and how it looks where it is shared."""
    found = () if tree is None else tree.findall(nodes.paragraph)
    paragraph = next((each for each in found if isinstance(each.parent, nodes.section)), None)
    words = "" if paragraph is None else " ".join(paragraph.astext().split())
    if len(words) > 200:
        words = words[:200].rpartition(" ")[0] + " ..."
    title = re.sub(r"<[^>]+>", "", context.get("title") or "emcache")
    tags = {
        "description": words,
        "og:type": "website",
        "og:site_name": "emcache",
        "og:title": html.unescape(title),
        "og:description": words,
        "og:image": f"{app.config.site}_static/card.png",
        "twitter:card": "summary_large_image",
    }
    lines = [
        f'<meta {"property" if name.startswith("og:") else "name"}="{name}"'
        f' content="{html.escape(text)}">'
        for name, text in tags.items()
        if text
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what is above."""
    app.add_config_value("site", "", "html", [str])
    app.connect("source-read", add_words)
    app.connect("html-page-context", add_description)
    return {"parallel_read_safe": True}
