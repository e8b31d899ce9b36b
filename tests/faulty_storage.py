"""An S3 endpoint that fails as it is told to, in front of one that works."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class FaultyStorage:
    """Forwards requests to ``endpoint`` but for those that ``faults`` asks to fail; ``url`` is its own endpoint.

    Args:
        endpoint: of the store.
        faults: what happens to the requests of shards, one after the other, until there are no more: ``503`` (the
            store is busy), ``drop`` (the connection breaks), ``cut`` (half of the answer, then it breaks), ``refuse``
            (nobody listens for ``refused_seconds``), or ``""`` for an answer.
        refused_seconds: see above.
    """

    def __init__(self, endpoint: str, faults: list[str], refused_seconds: float = 2.0) -> None:
        self.endpoint = endpoint
        self.faults = list(faults)
        self.failed: list[str] = []
        self.refused_seconds = refused_seconds
        self._lock = threading.Lock()
        self._restarts: list[threading.Thread] = []
        self._server: ThreadingHTTPServer | None = None
        self._listen(0)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FaultyStorage":
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self._restarts:
            thread.join()
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, path: str) -> str:
        with self._lock:
            fault = self.faults.pop(0) if self.faults and path.endswith(".bin") else ""
            if fault:
                self.failed.append(fault)
        return fault

    def refuse(self) -> None:
        """Stop listening for a while."""
        thread = threading.Thread(target=self._restart)
        self._restarts.append(thread)
        thread.start()

    def _restart(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        time.sleep(self.refused_seconds)
        self._listen(self.port)

    def _listen(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def _handler(storage: FaultyStorage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = storage.next_fault(self.path)
            self.close_connection = bool(fault)
            if fault == "503":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault in ("drop", "refuse"):
                if fault == "refuse":
                    storage.refuse()
                return
            self._forward(half=fault == "cut")

        do_HEAD = do_GET

        def _forward(self, half: bool) -> None:
            there = http.client.HTTPConnection(urlsplit(storage.endpoint).netloc)
            there.request(self.command, self.path, headers=dict(self.headers))
            answer = there.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if half else body)
            there.close()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    return Handler
