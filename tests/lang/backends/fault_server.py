"""A server of OpenAI's API that does what a script says, faults included; and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Act:
    """One answer. text: in these pieces. status: another than 200, with `body`. delay: seconds before it. cut: the
    connection is closed after so many pieces. silent: it is closed before anything."""

    text: Sequence[str] = ("ok",)
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    silent: bool = False
    finish: str = "stop"
    raw: str | None = None


class FaultServer:
    """Answers with `acts`, one after the other, and then as they are by default. owner: who it says owns its models."""

    def __init__(self, acts: Iterable[Act] = (), owner: str | None = "vllm") -> None:
        self.acts = deque(acts)
        self.owner = owner
        self.asked: list[tuple[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.open = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                return

            def do_GET(self) -> None:
                data = [] if outer.owner is None else [{"id": "m", "owned_by": outer.owner}]
                outer._send(self, 200, json.dumps({"data": data}).encode())

            def do_POST(self) -> None:
                outer._post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.asked.append((handler.path, body))
            self.times.append(time.monotonic())
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            act = self.acts.popleft() if self.acts else Act()
            self.open += 1
            self.most = max(self.most, self.open)
        try:
            time.sleep(act.delay)
            self._answer(handler, act, body)
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            with self._lock:
                self.open -= 1

    def _answer(self, handler: BaseHTTPRequestHandler, act: Act, body: Any) -> None:
        if act.silent:
            handler.close_connection = True
            handler.connection.close()
        elif act.status != 200:
            told = act.body if act.body is not None else {"error": {"message": f"status {act.status}"}}
            self._send(handler, act.status, json.dumps(told).encode(), act.headers)
        elif act.raw is not None:
            self._send(handler, 200, act.raw.encode())
        elif body.get("stream"):
            self._stream(handler, act, chat="messages" in body)
        else:
            self._send(handler, 200, json.dumps(whole(act, body)).encode())

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def _stream(self, handler: BaseHTTPRequestHandler, act: Act, chat: bool) -> None:
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for number, text in enumerate(act.text):
            if number == act.cut:
                handler.close_connection = True
                handler.connection.close()
                return
            self._chunk(handler, event(piece(text, chat)))
        self._chunk(handler, event(piece("", chat, act.finish)))
        self._chunk(handler, event({"choices": [], "usage": USAGE}))
        self._chunk(handler, "data: [DONE]\n\n")
        handler.wfile.write(b"0\r\n\r\n")

    def _chunk(self, handler: BaseHTTPRequestHandler, text: str) -> None:
        data = text.encode()
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def whole(act: Act, body: Any) -> Any:
    text = "".join(act.text)
    choices = [
        {
            "index": index,
            "finish_reason": act.finish,
            **({"message": {"content": text}} if "messages" in body else {"text": text}),
        }
        for index in reversed(range(body.get("n", 1)))
    ]
    return {"choices": choices, "usage": USAGE}


def piece(text: str, chat: bool, finish: str | None = None) -> Any:
    return {
        "choices": [{"index": 0, "finish_reason": finish, **({"delta": {"content": text}} if chat else {"text": text})}]
    }


def event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"
