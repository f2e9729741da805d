"""Cached responses and invalidation, with the real FastAPI, over httpx and real memcached."""

import asyncio
import contextlib
import functools
import types
import uuid
from typing import Annotated

import httpx
import pytest
import pytest_asyncio
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

import emcache
from emcache.cache import _warnings
from emcache.contrib import _fastapi_responses
from emcache.contrib._fastapi_endpoints import Lookup, path_tag
from emcache.contrib._fastapi_responses import Rules
from emcache.contrib.fastapi import EmcacheMiddleware, Invalidations, Memcached
from support.memcached import memcached as started

pytestmark = pytest.mark.driver_independent


class Product(BaseModel):
    number: int
    name: str


class Stored(Product):
    secret: str = "cost price"


class Shop:
    """An application, and how often its endpoints ran."""

    def __init__(self, server, **options):
        self.memcached = Memcached(server.address, prefix=uuid.uuid4().hex, timeout=20, **options)
        self.app = FastAPI(lifespan=self.memcached.lifespan)
        self.app.add_middleware(EmcacheMiddleware)
        self.calls = 0
        self.names = {7: "Chair"}

    def ran(self):
        calls, self.calls = self.calls, 0
        return calls

    @contextlib.asynccontextmanager
    async def open(self, app=None):
        transport = httpx.ASGITransport(app or self.app)
        async with (
            self.app.router.lifespan_context(self.app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as http,
        ):
            yield http

    def product(self, path="/products/{number}", **options):
        options = {"ttl": 60, "tags": ["product:{number}"]} | options

        @self.app.api_route(path, methods=["GET", "HEAD"], response_model=Product)
        @self.memcached.cached_response(**options)
        async def product(number: int):
            self.calls += 1
            return Stored(number=number, name=self.names[number])

        return product


@pytest.fixture
def shop(server):
    return Shop(server)


@pytest_asyncio.fixture
async def http(shop):
    shop.product()
    async with shop.open() as http:
        yield http


class TestHits:
    async def test_the_endpoint_runs_once(self, shop, http):
        answers = [await http.get("/products/7") for _ in range(3)]
        assert shop.ran() == 1
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json() for answer in answers] == [{"number": 7, "name": "Chair"}] * 3
        assert len({answer.headers["etag"] for answer in answers}) == 1
        for answer in answers:
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["vary"] == "Authorization, Cookie"
            assert answer.headers["content-length"] == str(len(answer.content))

    async def test_another_url_is_another_response(self, shop, http):
        shop.names[8] = "Table"
        for url in ("/products/7", "/products/8", "/products/7?a=1", "/products/7?a=2"):
            await http.get(url)
        assert shop.ran() == 4
        assert (await http.get("/products/7?b=2&a=1")).status_code == 200
        assert (await http.get("/products/7?a=1&b=2")).status_code == 200
        assert shop.ran() == 1
        await http.get("http://other/products/7")
        assert shop.ran() == 1

    async def test_304(self, shop, http):
        etag = (await http.get("/products/7")).headers["etag"]
        for wanted in (etag, f'"x", {etag}', etag.removeprefix("W/"), "*"):
            answer = await http.get("/products/7", headers={"if-none-match": wanted})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
            assert "content-length" not in answer.headers
            assert "content-type" not in answer.headers
        answer = await http.get("/products/7", headers={"if-none-match": '"other"'})
        assert answer.status_code == 200
        assert shop.ran() == 1

    async def test_304_of_a_new_response(self, shop, http):
        etag = (await http.get("/products/7")).headers["etag"]
        await shop.memcached._responses().invalidate_tag("product:7")
        answer = await http.get("/products/7", headers={"if-none-match": etag})
        assert (answer.status_code, shop.ran()) == (304, 2)
        assert (await http.get("/products/7")).status_code == 200
        assert shop.ran() == 0

    async def test_head(self, shop, http):
        first = await http.head("/products/7")
        assert (first.status_code, first.content) == (200, b"")
        got = await http.get("/products/7")
        assert shop.ran() == 2, "the answer to HEAD is not stored"
        head = await http.head("/products/7")
        assert (head.content, shop.ran()) == (b"", 0)
        for name in ("etag", "content-length", "content-type", "cache-control"):
            assert head.headers[name] == got.headers[name] == first.headers[name]

    async def test_max_age_is_what_is_left(self, shop, monkeypatch):
        shop.product(max_age=40, public=True)
        async with shop.open() as http:
            clock = types.SimpleNamespace()
            monkeypatch.setattr(_fastapi_responses, "time", clock)
            seen = []
            for now in (1_000_000.0, 1_000_010.0, 1_000_030.0, 1_000_060.0, 999_000.0):
                clock.time = functools.partial(float, now)
                seen.append((await http.get("/products/7")).headers["cache-control"])
        assert seen == [
            "public, max-age=40",
            "public, max-age=40",
            "public, max-age=30",
            "public, no-cache",
            "public, max-age=40",
        ]
        assert shop.ran() == 1

    async def test_ordinary_functions_run_in_a_thread(self, shop):
        @shop.app.get("/sync")
        @shop.memcached.cached_response(ttl=60)
        def sync(request: Request):
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            shop.calls += 1
            return {"path": request.url.path}

        async with shop.open() as http:
            answers = [(await http.get("/sync")).json() for _ in range(2)]
        assert (answers, shop.ran()) == ([{"path": "/sync"}] * 2, 1)

    async def test_the_schema_stays(self, shop):
        @shop.memcached.cached_response(ttl=60)
        async def cached(number: int, q: str = "") -> Product:
            """Shown in the documentation."""

        async def plain(number: int, q: str = "") -> Product:
            """Shown in the documentation."""

        other = FastAPI()
        other.get("/{number}", name="x", operation_id="x")(plain)
        shop.app.get("/{number}", name="x", operation_id="x")(cached)
        assert shop.app.openapi() == other.openapi()


class TestNotStored:
    @pytest.mark.parametrize(
        "answer",
        [
            lambda: Response("{}", 404),
            lambda: Response("{}", 500),
            lambda: Response("{}", 201),
            lambda: Response("{}", 206, {"content-range": "bytes 0-1/9"}),
            lambda: Response("{}", headers={"set-cookie": "session=1"}),
            lambda: Response("{}", headers={"cache-control": "no-store"}),
            lambda: Response("{}", headers={"cache-control": 'max-age=5, Private="x"'}),
            lambda: Response("{}", headers={"vary": "Accept-Language"}),
            lambda: Response("{}", headers={"vary": "*"}),
            lambda: Response(b"x" * 1_000_001),
            lambda: StreamingResponse(iter([b"x" * 600_000, b"y" * 600_000])),
        ],
    )
    async def test_responses(self, shop, answer):
        @shop.app.get("/x")
        @shop.memcached.cached_response(ttl=60)
        async def x():
            shop.calls += 1
            return answer()

        plain = FastAPI()
        plain.get("/x")(lambda: answer())
        async with shop.open() as http:
            answers = [await http.get("/x") for _ in range(2)]
        transport = httpx.ASGITransport(plain)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
            expected = await http.get("/x")
        assert shop.ran() == 2
        for each in answers:
            assert each.status_code == expected.status_code
            assert each.headers.raw == expected.headers.raw, "it is sent unchanged"
            assert each.content == expected.content

    async def test_exceptions(self, shop):
        @shop.app.get("/x")
        @shop.memcached.cached_response(ttl=60)
        async def x():
            shop.calls += 1
            raise HTTPException(404, "gone")

        async with shop.open() as http:
            answers = [await http.get("/x") for _ in range(2)]
        assert [answer.json() for answer in answers] == [{"detail": "gone"}] * 2
        assert shop.ran() == 2

    async def test_files_and_other_methods(self, shop, tmp_path):
        (tmp_path / "file").write_bytes(b"contents")

        @shop.app.get("/file")
        @shop.memcached.cached_response(ttl=60)
        async def file():
            shop.calls += 1
            return FileResponse(tmp_path / "file")

        @shop.app.post("/post")
        @shop.memcached.cached_response(ttl=60)
        async def post():
            shop.calls += 1
            return {}

        async with shop.open() as http:
            assert [(await http.get("/file")).content for _ in range(2)] == [b"contents"] * 2
            assert shop.ran() == 1
            for _ in range(2):
                answer = await http.post("/post")
                assert "etag" not in answer.headers
        assert shop.ran() == 2

    async def test_files_that_the_server_sends(self, shop, tmp_path):
        (tmp_path / "file").write_bytes(b"contents")

        @shop.app.get("/file")
        @shop.memcached.cached_response(ttl=60)
        async def file():
            return FileResponse(tmp_path / "file")

        sent = []

        async def app(scope, receive, send):
            async def sending(message):
                sent.append(message["type"])
                if message["type"] == "http.response.pathsend":
                    message = {"type": "http.response.body", "body": b"by the server"}
                await send(message)

            scope["extensions"] = {"http.response.pathsend": {}}
            await shop.app(scope, receive, sending)

        async with shop.open(app) as http:
            assert (await http.get("/file")).content == b"by the server"
        assert sent == ["http.response.start", "http.response.pathsend"]

    async def test_streams_that_fit(self, shop):
        @shop.app.get("/stream")
        @shop.memcached.cached_response(ttl=60)
        async def stream():
            shop.calls += 1
            return StreamingResponse(iter([b"one ", b"two"]), headers={"x-more": "kept"})

        async with shop.open() as http:
            answers = [await http.get("/stream") for _ in range(2)]
        assert [answer.content for answer in answers] == [b"one two"] * 2
        assert [answer.headers["x-more"] for answer in answers] == ["kept"] * 2
        assert shop.ran() == 1

    @pytest.mark.parametrize("header", ["authorization", "cookie"])
    async def test_requests_with_credentials(self, shop, http, header):
        for _ in range(2):
            answer = await http.get("/products/7", headers={header: "a=b"})
            assert "etag" not in answer.headers
        assert shop.ran() == 2

    async def test_an_endpoint_that_another_one_calls(self, shop):
        product = shop.product()

        @shop.app.get("/other/{number}")
        async def other(number: int, request: Request):
            found = await product(number=number, emcache_request=request)
            return {"other": found.name, "time": shop.calls}

        async with shop.open() as http:
            answers = [(await http.get("/other/7")) for _ in range(2)]
        assert [answer.json()["time"] for answer in answers] == [1, 2]
        assert "etag" not in answers[0].headers


class TestUsers:
    async def test_each_user_has_responses(self, shop):
        user = lambda request: request.headers.get("x-user")  # noqa: E731
        shop.product("/mine/{number}", user=user, max_age=30)
        async with shop.open() as http:
            for name in ("ada", "bob", "ada", "bob"):
                answer = await http.get("/mine/7", headers={"x-user": name, "cookie": "a=b"})
                assert answer.headers["cache-control"].startswith("private, max-age=")
            assert shop.ran() == 2
            for _ in range(2):
                assert "etag" not in (await http.get("/mine/7")).headers
            assert shop.ran() == 2

    async def test_public(self, shop):
        shop.product("/public/{number}", public=True)
        async with shop.open() as http:
            for name in ("ada", "bob"):
                answer = await http.get("/public/7", headers={"authorization": name})
                assert answer.headers["cache-control"] == "public, no-cache"
                assert "vary" not in answer.headers
        assert shop.ran() == 1

    async def test_dependencies_run_for_cached_responses(self, shop):
        def allowed(request: Request):
            if request.headers.get("x-key") != "secret":
                raise HTTPException(403)

        @shop.app.get("/guarded", dependencies=[Depends(allowed)])
        @shop.memcached.cached_response(ttl=60)
        async def guarded():
            shop.calls += 1
            return {}

        async with shop.open() as http:
            for key, status in [("secret", 200), ("wrong", 403), ("secret", 200)]:
                answer = await http.get("/guarded", headers={"x-key": key})
                assert answer.status_code == status
        assert shop.ran() == 1

    async def test_vary(self, shop):
        @shop.app.get("/greeting")
        @shop.memcached.cached_response(ttl=60, vary=["Accept-Language"], public=True)
        async def greeting(request: Request, response: Response):
            shop.calls += 1
            response.headers["vary"] = "accept-language"
            return {"language": request.headers["accept-language"]}

        async with shop.open() as http:
            for language in ("de", "en", "de"):
                answer = await http.get("/greeting", headers={"accept-language": language})
                assert answer.json() == {"language": language}
                assert answer.headers.get_list("vary") == ["Accept-Language"]
        assert shop.ran() == 2

    async def test_a_compressing_middleware(self, shop):
        """Added after ours, it compresses what is stored as it is."""
        shop.app.add_middleware(GZipMiddleware, minimum_size=1)
        shop.product()
        async with shop.open() as http:
            for encoding in ("gzip", "identity", "gzip"):
                answer = await http.get("/products/7", headers={"accept-encoding": encoding})
                assert answer.json()["name"] == "Chair"
                assert answer.headers.get("content-encoding", "identity") == encoding
                assert answer.headers["etag"].startswith("W/")
        assert shop.ran() == 1


class TestInvalidation:
    """Invalidations of a request, and their order."""

    @pytest.fixture(autouse=True)
    def routes(self, shop):
        shop.product()

        @shop.app.post("/rename/{number}")
        async def rename(
            number: int,
            name: str,
            invalidations: Annotated[Invalidations, Depends(shop.memcached.invalidations)],
            status: int = 200,
        ):
            shop.names[number] = name
            invalidations.tags(f"product:{number}")
            if status == 0:
                raise ZeroDivisionError
            return Response(status_code=status)

    @pytest.mark.parametrize(
        ("status", "is_dropped"),
        [(200, True), (204, True), (404, False), (422, False), (503, True)],
    )
    async def test_by_the_outcome(self, shop, status, is_dropped):
        async with shop.open() as http:
            await http.get("/products/7")
            answer = await http.post(f"/rename/7?name=Table&status={status}")
            assert answer.status_code == status
            found = (await http.get("/products/7")).json()["name"]
        assert found == ("Table" if is_dropped else "Chair")

    async def test_an_exception_leaves_the_outcome_open(self, shop):
        async with shop.open() as http:
            await http.get("/products/7")
            with pytest.raises(ZeroDivisionError):
                await http.post("/rename/7?name=Table&status=0")
            assert (await http.get("/products/7")).json()["name"] == "Table"

    async def test_before_the_response_and_after_the_request(self, shop):
        order = []

        async def session():
            yield
            order.append("commit of the request")

        async def early():
            yield
            order.append("commit of the function")

        @shop.app.post("/order")
        async def endpoint(
            invalidations: Annotated[Invalidations, Depends(shop.memcached.invalidations)],
            a: Annotated[None, Depends(session)],
            b: Annotated[None, Depends(early, scope="function")],
        ):
            invalidations.call(lambda: order.append("invalidation"))
            order.append("endpoint")
            return {}

        async def app(scope, receive, send):
            async def sending(message):
                order.append(message["type"])
                await send(message)

            await shop.app(scope, receive, sending)

        async with shop.open(app) as http:
            await http.post("/order")
        assert order == [
            "endpoint",
            "commit of the function",
            "invalidation",
            "http.response.start",
            "http.response.body",
            "commit of the request",
            "invalidation",
        ]

    async def test_all_that_can_be_invalidated(self, shop):
        cache = shop.memcached.current_cache
        runs = []

        @emcache.cached(cache, ttl=60, key="user:{user}", tags=["users"])
        async def load(user):
            runs.append(user)

        @shop.app.post("/all")
        async def endpoint(
            kind: str,
            found: Annotated[Invalidations, Depends(shop.memcached.invalidations)],
        ):
            if kind == "call":
                found.call(load.invalidate, 7)
            elif kind == "keys":
                found.keys("user:7")
            elif kind == "cache_tags":
                found.cache_tags("users")
            else:
                found.path("/products/7")
            return {}

        async with shop.open() as http:
            for kind in ("call", "keys", "cache_tags"):
                await load(7)
                await load(7)
                await http.post(f"/all?kind={kind}")
                await load(7)
            assert len(runs) == 4
            await http.get("/products/7?a=1")
            await http.post("/all?kind=path")
            shop.ran()
            await http.get("/products/7?a=1")
            assert shop.ran() == 1

    async def test_a_response_that_was_begun_before_is_not_stored(self, shop):
        begun, go = asyncio.Event(), asyncio.Event()

        @shop.app.get("/slow")
        @shop.memcached.cached_response(ttl=60, tags=["product:7"])
        async def slow():
            name = shop.names[7]
            begun.set()
            await go.wait()
            return name

        async with shop.open() as http:
            getting = asyncio.create_task(http.get("/slow"))
            await begun.wait()
            await http.post("/rename/7?name=Table")
            go.set()
            assert (await getting).json() == "Chair"
            assert (await http.get("/slow")).json() == "Table"

    async def test_a_request_that_is_cancelled(self, shop):
        ran = asyncio.Event()

        @shop.app.post("/cancelled")
        async def endpoint(
            found: Annotated[Invalidations, Depends(shop.memcached.invalidations)],
        ):
            shop.names[7] = "Table"
            found.tags("product:7")
            ran.set()
            await asyncio.Event().wait()

        async with shop.open() as http:
            await http.get("/products/7")
            request = asyncio.create_task(http.post("/cancelled"))
            await ran.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert (await http.get("/products/7")).json()["name"] == "Table"


class TestFailures:
    async def test_memcached_that_is_down(self, caplog):
        _warnings.LOG.reset()
        with started() as server:
            shop = Shop(server)
            shop.product()

            @shop.app.post("/drop")
            async def drop(
                found: Annotated[Invalidations, Depends(shop.memcached.invalidations)],
            ):
                found.tags("product:7")
                return {}

            async with shop.open() as http:
                await http.get("/products/7")
                server.kill()
                for _ in range(3):
                    answer = await http.get("/products/7")
                    assert (answer.status_code, answer.json()["number"]) == (200, 7)
                    assert answer.headers["etag"]
                assert (await http.post("/drop")).status_code == 200
        assert shop.ran() == 4
        logged = [record.getMessage() for record in caplog.records]
        assert any(text.startswith("reading a response failed") for text in logged)
        assert any(text.startswith("an invalidation after a request failed") for text in logged)

    async def test_values_that_are_not_ours(self, shop, http):
        responses = shop.memcached._responses()
        await http.get("/products/7")
        names = ["product:7", path_tag("/products/7")]
        request = Request({"type": "http", "headers": [(b"host", b"shop")], "path": "/products/7"})
        key = Lookup(lambda: responses, Rules(60, 0, (), False, False, 1), (), None, None)._key_of(
            request, ""
        )
        assert await responses.get(key, tags=names), "the key is another one"
        tags = await responses.read_tags(names)
        for data in (b"", b"{}", b"nothing\nelse", b"[1, [[1, 2]]]\n", b"[1, 2]\n"):
            await responses.set(key, data, tags=tags)
            answer = await http.get("/products/7")
            assert answer.json()["name"] == "Chair"

    async def test_what_is_missing_is_named(self, server):
        memcached = Memcached(server.address)
        with pytest.raises(RuntimeError, match=r"lifespan=memcached\.lifespan"):
            await memcached.client()
        assert memcached.current_cache() is None

        @memcached.cached_response(ttl=60, tags=["product:{nmber}"])
        async def product(number: int):
            return {}

        app = FastAPI(lifespan=memcached.lifespan)
        app.get("/{number}")(product)
        shop = types.SimpleNamespace(app=app)
        async with Shop.open(shop) as http:
            with pytest.raises(RuntimeError, match="add_middleware"):
                await http.get("/7")
        app.middleware_stack = None
        app.add_middleware(EmcacheMiddleware)
        async with Shop.open(shop) as http:
            with pytest.raises(ValueError, match="'nmber'; the parameters are: number"):
                await http.get("/7")
            with pytest.raises(RuntimeError, match="already running"):
                async with memcached.lifespan(app):
                    pass

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"ttl": 0}, ValueError),
            ({"ttl": 31 * 86400}, ValueError),
            ({"ttl": "60"}, TypeError),
            ({"ttl": True}, TypeError),
            ({"max_age": -1}, ValueError),
            ({"tags": "product"}, TypeError),
            ({"tags": [7]}, TypeError),
            ({"tags": ["product:{}"]}, ValueError),
            ({"tags": ["product:{0}"]}, ValueError),
            ({"vary": ["*"]}, ValueError),
            ({"vary": "accept"}, TypeError),
            ({"public": "yes"}, TypeError),
            ({"public": True, "user": lambda request: "x"}, ValueError),
            ({"max_size": 0}, ValueError),
        ],
    )
    def test_options(self, options, error):
        with pytest.raises(error, match=next(iter(options))[:3] if len(options) == 1 else "either"):
            Memcached("127.0.0.1").cached_response(**{"ttl": 60, **options})

    async def test_a_user_that_is_no_text(self, shop):
        shop.product("/mine/{number}", user=lambda request: 7)
        async with shop.open() as http:
            with pytest.raises(TypeError, match="user must return"):
                await http.get("/mine/7")


async def test_starlette(server):
    memcached = Memcached(server.address, prefix=uuid.uuid4().hex, timeout=20)
    calls = []

    @memcached.cached_response(ttl=60, tags=["name:{name}"])
    async def hello(request):
        calls.append(request.path_params["name"])
        return PlainTextResponse("hello " + calls[-1])

    app = Starlette(routes=[Route("/{name}", hello)], lifespan=memcached.lifespan)
    app.add_middleware(EmcacheMiddleware)
    async with Shop.open(types.SimpleNamespace(app=app)) as http:
        for _ in range(2):
            answer = await http.get("/Ada")
            assert answer.text == "hello Ada"
        head = await http.head("/Ada")
        assert head.headers["content-length"] == "9"
    assert calls == ["Ada"]


async def test_a_mounted_application(shop):
    shop.product()
    outer = FastAPI(lifespan=shop.memcached.lifespan)
    outer.mount("/api", shop.app)
    outer.add_middleware(EmcacheMiddleware)

    @outer.post("/drop")
    async def drop(found: Annotated[Invalidations, Depends(shop.memcached.invalidations)]):
        found.path("/api/products/7")

    async with Shop.open(types.SimpleNamespace(app=outer)) as http:
        for _ in range(2):
            assert (await http.get("/api/products/7")).status_code == 200
        assert shop.ran() == 1
        await http.post("/drop")
        await http.get("/api/products/7")
        assert shop.ran() == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/at/a?sort=x&sort=y", "/at/a?sort=y&sort=x"),
        ("/at/a%3Fb", "/at/a?b"),
        ("/at/a%253Fb", "/at/a%3Fb"),
        ("/at/a%23b", "/at/a"),
    ],
)
async def test_urls_that_only_look_alike(shop, one, other):
    @shop.app.get("/at/{name}")
    @shop.memcached.cached_response(60)
    async def show(request: Request, name: str):
        return [name, request.scope["query_string"].decode()]

    async with shop.open() as http:
        first, second = (await http.get(one)).json(), (await http.get(other)).json()
        assert first != second
        assert [(await http.get(one)).json(), (await http.get(other)).json()] == [first, second]


async def test_a_cookie_that_a_dependency_sets_on_a_hit_is_sent(shop):
    async def visitor(request: Request, response: Response):
        if name := request.headers.get("x-visitor"):
            response.set_cookie("visitor", name)

    @shop.app.middleware("http")
    async def inner(request: Request, call_next):
        response = await call_next(request)
        if "x-visitor" in request.headers:
            response.set_cookie("inner", "yes")
        return response

    # What is added last is the outermost.
    shop.app.add_middleware(EmcacheMiddleware)

    @shop.app.get("/start", dependencies=[Depends(visitor)])
    @shop.memcached.cached_response(60, public=True)
    async def start():
        shop.calls += 1
        return "start"

    async with shop.open() as http:
        assert "set-cookie" not in (await http.get("/start")).headers
        again = await http.get("/start", headers={"x-visitor": "ada"})
        assert again.headers.get_list("set-cookie")
        assert shop.ran() == 1


async def test_invalidations_refuse_what_they_cannot_do(shop):
    refused = []

    @shop.app.put("/products")
    async def change(changes: Annotated[Invalidations, Depends(shop.memcached.invalidations)]):
        for call, argument in (
            (changes.tags, ["product:1"]),
            (changes.keys, 5),
            (changes.cache_tags, b"tag"),
            (changes.path, "products/1"),
            (changes.path, "http://shop/products/1"),
            (changes.path, "/products/1?page=2"),
            (changes.call, 5),
        ):
            try:
                call(argument)
            except (TypeError, ValueError) as error:
                refused.append(type(error).__name__)

    async with shop.open() as http:
        assert (await http.put("/products")).status_code == 200
    assert refused == ["TypeError"] * 3 + ["ValueError"] * 3 + ["TypeError"]
