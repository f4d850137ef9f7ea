"""The link over HTTP: frames come as one long answer, and go as small requests.

    POST /v1/link          Hello            ──▶   200, a stream of frames that lasts as long as the connection
    POST /v1/link/frames   frames, one or more ──▶   204, one request after another

Only what Python brings along is needed, and any proxy that passes a streamed answer on will do. Two threads a
connection, whatever runs on it: one reads the stream, one sends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from latticework.lang.errors import Busy, ConnectionLost, InvalidArgument, LatticeworkError, QuotaExceeded
from latticework.runtime.link.framing import HEAD, pack, read_frame
from latticework.runtime.link.messages import SILENCE_SECONDS, BadFrame, Hello, encode

LINK_PATH = "/v1/link"
FRAMES_PATH = "/v1/link/frames"
LINK_HEADER = "x-latticework-link"  # of the answer and of every request after: which connection it is
LONGEST_HEADER = "x-latticework-longest"  # of the answer: bytes that one request may have
FRAMES_TYPE = "application/vnd.latticework.frames"
CONNECT_SECONDS = 10.0
MAX_QUEUED_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 16


@dataclass(frozen=True)
class HttpAddress:
    """A server, and how to reach it. api_key: never shown. verify: a file of certificates to trust instead of the
    system's; False: none is checked."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    verify: str | bool | None = None

    def __post_init__(self) -> None:
        """Raises InvalidArgument."""
        parts = _split(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InvalidArgument(f"{self.url!r} is no HTTP address", field="base_url", hint="http://127.0.0.1:8000")
        if parts.username or parts.password:
            raise InvalidArgument("base_url carries a password", field="base_url", hint="give the key as api_key=")
        key = self.api_key
        if key is not None and not (isinstance(key, str) and key.isascii() and key.isprintable() and key.strip()):
            raise InvalidArgument("api_key is no text that a header can hold", field="api_key")
        if isinstance(self.verify, str) and not Path(self.verify).is_file():
            raise InvalidArgument(f"verify is {self.verify!r}; there is no such file", field="verify")

    def connect(self) -> http.client.HTTPConnection:
        """Raises OSError."""
        parts = _split(self.url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_SECONDS)
        context = ssl.create_default_context(cafile=self.verify if isinstance(self.verify, str) else None)
        if self.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CONNECT_SECONDS, context=context)

    def path(self, route: str) -> str:
        return _split(self.url).path.rstrip("/") + route

    def headers(self) -> dict[str, str]:
        found = {"Content-Type": FRAMES_TYPE, "Accept": FRAMES_TYPE}
        return found if self.api_key is None else found | {"Authorization": f"Bearer {self.api_key}"}


class HttpWire:
    """See `Wire`. Raises LatticeworkError when the server cannot be reached or does not want us."""

    def __init__(self, address: HttpAddress, wake: Callable[[], None]) -> None:
        self._address = address
        self._wake = wake
        self._inbox: deque[bytes] = deque()
        self._outbox: deque[bytes] = deque()
        self._queued = 0  # bytes of the outbox
        self._error: LatticeworkError | None = None
        self._closed = False
        self._more = threading.Condition()
        try:
            self._down, self._stream = self._open()
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionLost(f"nobody answers at {address.url}: {_why(error)}") from None
        self._link = self._stream.headers.get(LINK_HEADER, "")
        longest = self._stream.headers.get(LONGEST_HEADER, "")
        if not self._link or not longest.isdigit():
            self._stream.close()
            self._down.close()
            raise ConnectionLost(f"what answers at {address.url} is no Latticework server")
        self.longest = int(longest) - HEAD
        self._selector = selectors.DefaultSelector()
        for work, name in ((self._read, "reader"), (self._write, "writer")):
            threading.Thread(target=work, name=f"latticework-http-{name}", daemon=True).start()

    # ------------------------------------------------------------ the client's thread

    def wait(self, woken: socket.socket, seconds: float) -> None:
        if woken not in self._selector.get_map():
            self._selector.register(woken, selectors.EVENT_READ)
        if not self._inbox and self._error is None:
            self._selector.select(seconds)

    def receive(self) -> bytes | None:
        if self._inbox:
            return self._inbox.popleft()
        if self._error is not None:
            raise self._error
        return None

    def send(self, frame: bytes) -> bool:
        with self._more:
            if self._outbox and self._queued + len(frame) > MAX_QUEUED_BYTES:
                return False
            self._outbox.append(frame)
            self._queued += len(frame)
            self._more.notify()
        return True

    def close(self) -> None:
        with self._more:
            self._closed = True
            self._more.notify()
        self._shut(self._down)
        self._selector.close()

    # ------------------------------------------------------------ the reader

    def _open(self) -> tuple[socket.socket, http.client.HTTPResponse]:
        connection = self._address.connect()
        try:
            connection.request("POST", self._address.path(LINK_PATH), pack([encode(Hello())]), self._address.headers())
            opened = connection.sock
            assert isinstance(opened, socket.socket)
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refusal(self._address, answer)
        except BaseException:
            connection.close()
            raise
        opened.settimeout(SILENCE_SECONDS)
        return opened, answer

    def _read(self) -> None:
        try:
            while (frame := read_frame(self._stream.read)) is not None:
                self._inbox.append(frame)
                self._wake()
            self._fail(ConnectionLost("the server has closed the connection"))
        except (OSError, http.client.HTTPException, BadFrame, ValueError, AttributeError) as error:
            self._fail(ConnectionLost(f"the connection was lost: {_why(error)}"))  # the last two: closed meanwhile
        finally:
            self._stream.close()
            self._down.close()

    # ------------------------------------------------------------ the writer

    def _write(self) -> None:
        connection = self._address.connect()
        try:
            while frames := self._next():
                self._post(connection, frames)
        except (OSError, http.client.HTTPException) as error:
            self._fail(ConnectionLost(f"the connection was lost: {_why(error)}"))
        except LatticeworkError as error:
            self._fail(error)
        finally:
            connection.close()

    def _next(self) -> list[bytes]:
        """What waits, as much as one request may have; nothing once closed."""
        with self._more:
            self._more.wait_for(lambda: self._outbox or self._closed)
            frames: list[bytes] = []
            size = 0
            while self._outbox and (not frames or size + HEAD + len(self._outbox[0]) <= self.longest):
                frames.append(self._outbox.popleft())
                size += HEAD + len(frames[-1])
                self._queued -= len(frames[-1])
            return frames

    def _post(self, connection: http.client.HTTPConnection, frames: list[bytes]) -> None:
        headers = self._address.headers() | {LINK_HEADER: self._link}
        connection.request("POST", self._address.path(FRAMES_PATH), pack(frames), headers)
        answer = connection.getresponse()
        if answer.status != 204:
            raise _refusal(self._address, answer)
        answer.read()

    # ------------------------------------------------------------ ends

    def _fail(self, error: LatticeworkError) -> None:
        self._error = self._error or error
        self._wake()

    def _shut(self, opened: socket.socket) -> None:
        """Wakes whoever reads there."""
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # it may be no number
        return parts
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{url!r} is no HTTP address: {error}", field="base_url") from None


def _refusal(address: HttpAddress, answer: http.client.HTTPResponse) -> LatticeworkError:
    """What the server says is wrong, without our key, whatever it says."""
    text = answer.read(MAX_ERROR_BYTES).decode("utf-8", "replace")
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = text[:200]
    if address.api_key:
        message = message.replace(address.api_key, "***")
    said = f"{address.url} answers {answer.status}: {message or answer.reason}"
    match answer.status:
        case 401 | 403:
            return InvalidArgument(said, field="api_key")
        case 404:
            return ConnectionLost(said, hint="is it a Latticework server, and one of this version?")
        case 429:
            return QuotaExceeded(said)
        case 503:
            return Busy(said)
    return ConnectionLost(said)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
