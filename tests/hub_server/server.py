"""The HTTP server: it reads requests, applies faults, sends answers and keeps a record."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.hub_server import accounts
from tests.hub_server.api import dispatch
from tests.hub_server.errors import HubError
from tests.hub_server.faults import Fault, Faults
from tests.hub_server.records import Request
from tests.hub_server.state import Call, Reply, State, answer
from tests.hub_server.storage import Bucket, Repository


class HubServer:
    """A Hub on a free port of 127.0.0.1, and the test's handle on it; see the package's docstring."""

    def __init__(self) -> None:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.hub = self
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.state = State(self.endpoint)
        self.faults = Faults()
        self.requests: list[Request] = []
        self.errors: list[str] = []  # tracebacks of errors in this server
        self.waker = threading.Event()  # ends the waits of slow answers
        threading.Thread(target=self._http.serve_forever, name="hub-server", daemon=True).start()

    def close(self) -> None:
        self.waker.set()
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forget the repositories and buckets, the faults, the requests and the page size."""
        self.waker.set()  # ends waits on the old event
        self.waker = threading.Event()
        self.clear_faults()
        with self.state.lock:
            self.state.repositories.clear()
            self.state.buckets.clear()
            self.state.page_size = State.page_size
        self.errors = []
        self.clear_requests()

    # Repositories

    @staticmethod
    def token(user: str, right: str = "write") -> str:
        return accounts.token(user, right)

    def create_repository(
        self,
        repo_id: str,
        repo_type: str = "model",
        *,
        files: Mapping[str, bytes] | None = None,
        private: bool = False,
    ) -> Repository:
        """Create a repository directly, without a client and its checks."""
        with self.state.lock:
            repository = self.state.add(Repository(repo_type, repo_id, private=private))
            if files:
                repository.commit(dict(files))
        return repository

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """Raises KeyError where there is none."""
        found = self.state.find(repo_type, repo_id)
        if found is None:
            raise KeyError(f"no {repo_type} {repo_id}")
        return found

    def bucket(self, bucket_id: str) -> Bucket:
        """Raises KeyError where there is none."""
        return self.state.buckets[bucket_id.lower()]

    @property
    def page_size(self) -> int:
        return self.state.page_size

    @page_size.setter
    def page_size(self, size: int) -> None:
        self.state.page_size = size

    # Recorded requests

    def clear_requests(self) -> None:
        self.requests = []

    def _contents(self, repo_id: str | None) -> list[Request]:
        return [r for r in self.requests if r.method == "GET" and r.filename and repo_id in (None, r.repo)]

    def opened(self, repo_id: str | None = None) -> set[str]:
        """The files whose content was requested."""
        return {str(request.filename) for request in self._contents(repo_id)}

    def downloaded(self, repo_id: str | None = None) -> int:
        """The bytes of file content that were sent."""
        return sum(request.sent for request in self._contents(repo_id) if request.status in (200, 206))

    # Faults: keyword arguments are those of Fault (method, path_contains, times, after)

    def clear_faults(self) -> None:
        self.faults.clear()

    def fail(
        self, status: int, *, headers: dict[str, str] | None = None, body: bytes | None = None, **which: Any
    ) -> Fault:
        return self.faults.add(Fault("fail", status=status, headers=headers or {}, body=body, **which))

    def drop(self, **which: Any) -> Fault:
        return self.faults.add(Fault("drop", **which))

    def cut(self, after_bytes: int = 0, **which: Any) -> Fault:
        return self.faults.add(Fault("cut", after_bytes=after_bytes, **which))

    def slow(self, seconds: float, *, chunk: int = 1024, **which: Any) -> Fault:
        return self.faults.add(Fault("slow", seconds=seconds, chunk=chunk, **which))

    def tamper(self, change: Callable[[bytes], bytes], **which: Any) -> Fault:
        return self.faults.add(Fault("tamper", change=change, **which))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        record = Request(self.command, url.path, query, self.headers.get("Range"), self.headers.get("User-Agent", ""))
        hub.requests.append(record)
        fault = hub.faults.take(self.command, self.path)
        if fault is not None and fault.kind == "drop":
            self._hang_up()
            return
        body = self._read_body()
        record.received = len(body)
        reply = self._answer(hub, record, url.path, query, body, fault)
        record.status = reply.status
        self._send(hub, record, reply, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _answer(
        self, hub: HubServer, record: Request, path: str, query: dict[str, list[str]], body: bytes, fault: Fault | None
    ) -> Reply:
        try:
            if fault is not None and fault.kind == "fail":
                if fault.body is not None:
                    return Reply(fault.status, fault.body, fault.headers)
                raise HubError(fault.status, f"A fault of the test: {fault.status}", headers=fault.headers)
            caller = accounts.identify(self.headers.get("Authorization"))
            record.user = caller.user
            call = Call(hub.state, caller, self.command, path, query, body, record)
            if fault is not None:
                call.tamper = fault.change
            with hub.state.lock:
                return dispatch(call)
        except HubError as error:
            return answer(error.body, error.status, error.headers)
        except Exception:
            hub.errors.append(f"{self.command} {self.path}\n{traceback.format_exc()}")
            return answer({"error": "the test server failed"}, 500)

    def _send(self, hub: HubServer, record: Request, reply: Reply, fault: Fault | None) -> None:
        cut = fault.after_bytes if fault is not None and fault.kind == "cut" else None
        if cut == 0:
            self._hang_up()
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        content = reply.body[:cut]
        if fault is not None and fault.kind == "slow":
            waker = hub.waker
            for start in range(0, len(content), fault.chunk):
                waker.wait(fault.seconds)
                self._write(record, content[start : start + fault.chunk])
        else:
            self._write(record, content)
        if cut is not None:
            self._hang_up()

    def _write(self, record: Request, content: bytes) -> None:
        record.sent += len(content)  # counted before the client can see the bytes
        self.wfile.write(content)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionResetError("the client hung up within a request")  # of which nothing is done
            return body
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
