"""The site that `make docs` builds: its search, asked as its page asks it, and its API pages.

These tests read target/docs. `make docs` runs them; elsewhere that site may be an old one.
"""

import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import emcache
import emcache.sync
from support.pages import ROOT

pytestmark = pytest.mark.driver_independent

SITE = ROOT / "target/docs"
if os.environ.get("EMCACHE_TEST_SITE") != "1":
    pytest.skip("make docs runs these tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "docs/_extensions"))

import emcache_api  # noqa: E402
import emcache_search  # noqa: E402

EXPECTED = {
    "stampede": "caching-patterns",
    "dogpile": "caching-patterns",
    "thundering herd": "caching-patterns",
    "ketama": "routing",
    "consistent hashing": "routing",
    "failover": "failover",
    "health check": "operations",
    "big key": "large-values",
    "hot key": "caching-patterns",
    "sentry": "observability",
    "celery": "cookbook/flask-celery",
    "alpine": "compatibility",
    "expire": "many-keys-and-times",
    "fork": "sync",
    "lock": "tags-locks-limits",
    "gevent": "sync",
    "serverless": "start",
    "Lambda": "start",
    "Redis": "comparison",
    "Kubernetes": "cookbook/kubernetes",
}

ASK = r"""
const fs = require("fs"), vm = require("vm");
const [site, ...queries] = process.argv.slice(1);
const element = { addEventListener() {}, dataset: {}, children: [] };
const context = {
  document: { ...element, readyState: "loading", documentElement: element,
              getElementById: () => null, querySelectorAll: () => [],
              createElement: () => element },
  localStorage: { setItem() {} }, console, URLSearchParams,
  DOCUMENTATION_OPTIONS: { FILE_SUFFIX: ".html", SHOW_SEARCH_SUMMARY: false },
  SPHINX_HIGHLIGHT_ENABLED: false,
};
vm.createContext(context);
context.window = context;
const run = (file) => vm.runInContext(fs.readFileSync(`${site}/${file}`, "utf8"), context);
for (const name of ["doctools", "base-stemmer", "english-stemmer", "language_data"])
  run(`_static/${name}.js`);
run("_static/searchtools.js");
run("searchindex.js");
context.queries = queries;
const found = vm.runInContext(`queries.map((query) => {
  const results = Search._performSearch(...Search._parseQuery(query));
  return results.slice(-10).reverse().map((result) => result[0]);
})`, context);
console.log(JSON.stringify(found));
"""


def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


@pytest.fixture(scope="module")
def results():
    command = [node(), "-e", ASK, "--", str(SITE), *EXPECTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(EXPECTED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("words", "page"), list(EXPECTED.items()), ids=list(EXPECTED))
def test_the_page_for_users_comes_first(results, words, page):
    assert results[words][0] == page, results[words]


def test_design_pages_come_after_pages_for_users(results):
    for words, pages in results.items():
        first = [page.startswith("design/") for page in pages]
        assert first == sorted(first), (words, pages)


def test_words_lead_to_headings():
    for target in emcache_search.WORDS.values():
        page, _, anchor = target.partition("#")
        text = (ROOT / f"docs/{page}.md").read_text()
        headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
        assert not anchor or anchor in map(emcache_search.anchor_of, headings), target


def methods():
    for owner in (emcache.Client, emcache.Cache, emcache.sync.Client, emcache.sync.Cache):
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            if not name.startswith("_") and method.__doc__:
                yield pytest.param(
                    owner, name, method, id=f"{owner.__module__}.{owner.__name__}.{name}"
                )


@pytest.mark.parametrize(("owner", "name", "method"), list(methods()))
def test_parameters_are_described(owner, name, method):
    text = inspect.getdoc(method)
    own = re.findall(r"^    \*{0,2}(\w+): ", text.partition("Args:")[2], re.MULTILINE)
    known = {*own, *emcache_api.GLOSSARIES[owner.__name__]}
    names = [each for each in inspect.signature(method).parameters if each != "self"]
    assert [each for each in names if each not in known] == []


@pytest.mark.parametrize("page", sorted((SITE / "api").glob("*.html")), ids=lambda page: page.stem)
def test_nothing_is_called_abstract(page):
    assert "abstractmethod" not in page.read_text()


@pytest.mark.parametrize("page", sorted((SITE / "api").glob("*.html")), ids=lambda page: page.stem)
def test_api_pages_begin_with_a_list(page):
    text = page.read_text()
    assert 0 < text.index('class="members') < text.index("sig sig-object")


@pytest.mark.parametrize("page", ["index", "start", "api/client", "cookbook/fastapi"])
def test_pages_describe_themselves(page):
    text = (SITE / f"{page}.html").read_text()
    assert re.search(r'<meta name="description" content="[^"]{40,}">', text)
    assert 'property="og:image" content="' in text
    assert 'rel="icon"' in text or 'rel="shortcut icon"' in text


def test_the_figure_is_made_of_the_results():
    figure = ROOT / "docs/performance/gets.svg"
    spec = importlib.util.spec_from_file_location("bars", ROOT / "benches/python/bars.py")
    bars = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bars)
    assert figure.read_text() == bars.figure()
    # What the pages say of it.
    found = bars.gets_per_second()
    assert round(found["emcache"], -4) == 430_000
    assert round(found["emcache 1.3.3 autobatching"], -3) == 154_000
