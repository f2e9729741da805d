"""Programs that fork after they have used a client: gunicorn, multiprocessing, Celery. gevent."""

import json
import subprocess
import sys
import textwrap
import time
import urllib.request

import pytest

from support.memcached import free_port

pytestmark = pytest.mark.driver_independent


def write(folder, name, text):
    (folder / name).write_text(textwrap.dedent(text))


def fetch(url):
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(("failover", "worker"), [(None, "sync"), ("next", "gthread")])
def test_gunicorn_with_preload(server, key, tmp_path, failover, worker):
    pytest.importorskip("gunicorn")
    write(
        tmp_path,
        "web.py",
        f"""
        import json, os
        import emcache, emcache.sync

        node = "127.0.0.1:{server.address.port}"
        client = emcache.sync.create_client(node, failover={failover!r})
        cache = emcache.sync.Cache(client, prefix={key.decode()!r})
        client.set({key!r}, b"of the master")
        MASTER = os.getpid()

        def app(environ, start_response):
            name = {key!r} + b":%d" % os.getpid()
            right = client.get({key!r}).value == b"of the master"
            for n in range(20):
                client.set(name, b"%d" % n)
                right = right and client.get(name).value == b"%d" % n
            right = right and cache.get_or_set("a", lambda: [1]) == [1]
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps([os.getpid(), MASTER, right]).encode()]
        """,
    )
    port = free_port()
    options = f"--preload --workers 2 --threads 2 --worker-class {worker} --bind 127.0.0.1:{port}"
    command = [sys.executable, "-m", "gunicorn", *options.split(), "web:app"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        workers = set()
        for _ in range(30):
            pid, master, right = fetch(f"http://127.0.0.1:{port}/")
            assert right
            assert pid != master
            workers.add(pid)
        assert master == process.pid
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(server, key, tmp_path, method):
    write(
        tmp_path,
        "pool.py",
        f"""
        import multiprocessing, os, warnings
        import emcache.sync

        warnings.simplefilter("ignore", DeprecationWarning)
        clients = [
            emcache.sync.create_client("127.0.0.1:{server.address.port}", failover=failover)
            for failover in (None, "next")
        ]

        def work(number):
            found = []
            for client in clients:
                name = {key!r} + b":%d" % number
                client.set(name, b"%d" % number)
                found.append(client.get(name).value == b"%d" % number)
            return os.getpid(), all(found)

        if __name__ == "__main__":
            assert work(0)[1]
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                results = pool.map(work, range(200), chunksize=5)
            assert all(right for _, right in results)
            assert os.getpid() not in {{pid for pid, _ in results}}
            assert work(0)[1]
            for client in clients:
                client.close()
            print("done")
        """,
    )
    command = [sys.executable, "pool.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.stdout.endswith("done\n"), done.stderr
    assert done.returncode == 0


def test_celery_prefork(server, key, tmp_path):
    pytest.importorskip("celery")
    write(
        tmp_path,
        "work.py",
        f"""
        import os
        import celery, emcache.sync

        folder = {str(tmp_path)!r}
        options = {{"data_folder_in": folder, "data_folder_out": folder}}
        app = celery.Celery("work", broker="filesystem://")
        app.conf.broker_transport_options = options
        client = emcache.sync.create_client("127.0.0.1:{server.address.port}")
        cache = emcache.sync.Cache(client, prefix={key.decode()!r})
        client.set({key!r}, b"0")
        MASTER = os.getpid()

        @app.task
        def count(number):
            assert os.getpid() != MASTER
            cache.get_or_set("a", lambda: number)
            client.set({key!r} + b":%d" % number, b"%d" % os.getpid())
            client.increment({key!r}, 1)
        """,
    )
    send = "import work; [work.count.delay(n) for n in range(20)]"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, check=True, timeout=30)
    options = "worker --pool prefork --concurrency 2 --without-gossip --without-mingle"
    command = [sys.executable, "-m", "celery", "-A", "work", *options.split(), "--loglevel", "INFO"]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        import emcache.sync

        with emcache.sync.create_client(server.address) as client:
            deadline = time.monotonic() + 30
            while (item := client.get(key)) is None or item.value != b"20":
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            names = [b"%b:%d" % (key, n) for n in range(20)]
            workers = {item.value for item in client.get_many(names).values()}
    finally:
        process.terminate()
        process.wait(20)
        log.close()
    assert 1 <= len(workers) <= 2
    assert b"%d" % process.pid not in workers


def test_gevent_is_refused(server):
    pytest.importorskip("gevent")
    program = f"""
        from gevent import monkey
        monkey.patch_all()
        import emcache.sync
        for create in (emcache.sync.create_client, emcache.sync.from_url):
            try:
                create("memcached://127.0.0.1:{server.address.port}"
                       if create is emcache.sync.from_url else "127.0.0.1:{server.address.port}")
            except RuntimeError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.count("gevent has patched this process") == 2, done.stderr


def test_a_client_that_gevent_found_there_still_answers(server, key):
    pytest.importorskip("gevent")
    program = f"""
        import emcache.sync
        client = emcache.sync.create_client("127.0.0.1:{server.address.port}")
        client.set({key!r}, b"1")
        import warnings
        warnings.simplefilter("ignore")
        from gevent import monkey
        monkey.patch_all()
        # Its calls block the process, and are right.
        print(client.get({key!r}).value)
        client.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "b'1'\n", done.stderr
