#!/usr/bin/env bash
# A TLS session of memcached that was made with a client certificate: can the next connection resume it?
set -euo pipefail
command -v memcached >/dev/null || { echo "no memcached"; exit 77; }
memcached -h | grep -q -- --enable-ssl || { echo "memcached without TLS"; exit 77; }
folder=$(mktemp -d)
pid=
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem 2>/dev/null
for name in localhost client; do
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr" 2>/dev/null
    openssl x509 -req -days 2 -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -out "$name.pem" 2>/dev/null
done
chmod -R a+rX "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
memcached -l 127.0.0.1 -p "$port" -U 0 -u nobody -Z -o \
    "ssl_chain_cert=$folder/localhost.pem,ssl_key=$folder/localhost.key,ssl_ca_cert=$folder/ca.pem,ssl_verify_mode=2" \
    2>/dev/null &
pid=$!
memcached --version
python3 - "$port" <<'PYTHON'
import socket
import ssl
import sys
import time

address = ("127.0.0.1", int(sys.argv[1]))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# With TLS 1.2 the session is known after the handshake.
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.check_hostname = False
context.load_verify_locations("ca.pem")
context.load_cert_chain("client.pem", "client.key")


def ask(session=None):
    for _ in range(100):
        try:
            plain = socket.create_connection(address, timeout=2)
            break
        except OSError:
            time.sleep(0.05)
    else:
        raise SystemExit("memcached does not listen")
    try:
        with context.wrap_socket(plain, session=session) as sock:
            sock.sendall(b"version\r\n")
            return sock.recv(100).decode().strip() or "closed", sock.session
    except OSError as error:
        return type(error).__name__, None


first, session = ask()
resumed, _ = ask(session)
again, _ = ask()
print("a new session:", first.split()[0])
print("the same one, resumed:", resumed.split()[0])
print("another new one:", again.split()[0])
sys.exit(not (first.startswith("VERSION") and again.startswith("VERSION") and not resumed.startswith("VERSION")))
PYTHON
