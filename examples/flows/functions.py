#!/usr/bin/env python3
"""Stands in for OpenFaaS: a gateway with the functions that the flows of this folder call.

    examples/flows/functions.py [PORT]      8080 where nobody says; 0 takes any that is free

POST /function/NAME is answered with what the function gives, POST /async-function/NAME with 202, and what the function gives goes to
X-Callback-Url. Each call is printed, with its time. Python 3.9 and nothing else.
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FUNCTIONS = {}
BEGAN = time.monotonic()


def function(made):
    """Behind the gateway by its name, with - for _. It is given a text, what JSON says, or None for an empty body, and gives one."""
    FUNCTIONS[made.__name__.replace("_", "-")] = made
    return made


@function
def upper(text):
    time.sleep(0.3)
    return str(text).upper()


@function
def append_flows(text):
    time.sleep(0.3)
    return f"{text}, FLOWS"


@function
def append_mark(text):
    time.sleep(0.3)
    return f"{text}!"


@function
def worker_1(message):
    time.sleep(0.2)
    say(f"worker-1 received message: {message['message'] if isinstance(message, dict) else message}")


@function
def worker_2(_):
    time.sleep(1)
    return "worker-2 completed"


@function
def worker_3(_):
    time.sleep(1)
    return "worker-3 completed"


@function
def worker_4(_):
    time.sleep(0.2)
    return "worker-4 completed"


@function
def worker_5(_):
    time.sleep(0.2)


def say(words):
    print(f"{time.monotonic() - BEGAN:8.3f}  {words}", flush=True)


def given(kind, body):
    """What a function is given of a body."""
    text = body.decode("utf-8", "replace")
    if not body:
        return None
    if kind.startswith("application/json") or text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def called(name, kind, body):
    """The status, the Content-Type and the body that a function gives."""
    begun = time.monotonic()
    say(f"{name} is called with {body[:60].decode('utf-8', 'replace') or 'nothing'}")
    try:
        result = FUNCTIONS[name](given(kind, body))
    except Exception as error:
        say(f"{name} fails: {error!r}")
        return 500, "text/plain", f"{error!r}\n".encode()
    say(f"{name} is done in {time.monotonic() - begun:.3f} s")
    if result is None:
        return 200, "", b""
    if isinstance(result, str):
        return 200, "text/plain; charset=utf-8", result.encode()
    return 200, "application/json", json.dumps(result).encode()


def call_back(url, call_id, name, kind, body):
    begun = time.monotonic()
    status, kind, result = called(name, kind, body)
    if not url:
        return
    headers = {
        "X-Call-Id": call_id,
        "X-Function-Name": name,
        "X-Function-Status": str(status),
        "X-Duration-Seconds": f"{time.monotonic() - begun:.6f}",
        "Content-Type": kind or "application/octet-stream",
    }
    try:
        urllib.request.urlopen(urllib.request.Request(url, result, headers, method="POST"), timeout=30).close()
    except (urllib.error.URLError, OSError) as error:
        say(f"{name}: nobody took its result at {url}: {error}")


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stand-in"

    def do_POST(self):
        body = self.body()
        _, way, *name = self.path.split("?")[0].split("/")
        name = "/".join(name)
        if way not in ("function", "async-function") or name not in FUNCTIONS:
            return self.answer(404, "text/plain", f"there is no function {name}: {', '.join(FUNCTIONS)}\n".encode())
        kind, call_id = self.headers.get("Content-Type", ""), self.headers.get("X-Call-Id", "")
        if way == "function":
            return self.answer(*called(name, kind, body))
        url = self.headers.get("X-Callback-Url")
        threading.Thread(target=call_back, args=(url, call_id, name, kind, body), daemon=True).start()
        return self.answer(202, "", b"")

    do_PUT = do_PATCH = do_DELETE = do_POST

    def do_GET(self):
        """`/healthz` says that it is there; all else is a call without a body."""
        return self.answer(200, "text/plain", b"OK\n") if self.path == "/healthz" else self.do_POST()

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return whole

    def answer(self, status, kind, body):
        """Head and body in one write: in two, the second waits for the client's acknowledgement of the first."""
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        if kind:
            self.send_header("Content-Type", kind)
        if call_id := self.headers.get("X-Call-Id"):
            self.send_header("X-Call-Id", call_id)
        self._headers_buffer.append(b"\r\n" + body)
        self.flush_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    if len(sys.argv) > 2 or not all(port.isdigit() for port in sys.argv[1:]):
        sys.exit(f"usage: {sys.argv[0]} [PORT]")
    port = int(sys.argv[1]) if len(sys.argv) == 2 else 8080
    try:
        server = Server(("127.0.0.1", port), Gateway)
    except OSError as error:
        sys.exit(f"error: port {port} cannot be listened on: {error}; say another one")
    print(f"http://127.0.0.1:{server.server_port} has {', '.join(FUNCTIONS)}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
