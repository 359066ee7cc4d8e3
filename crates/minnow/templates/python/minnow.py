"""The ground between wasi:http and the app's own code: requests, answers, and calls to other hosts.

There is nothing to change here. The app is in app.py.
"""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from json import dumps, loads
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler, types
from wit_world.imports.streams import StreamError_Closed

# A line is in the log as soon as it is printed: what waits in a buffer is lost with the instance.
sys.stdout.reconfigure(line_buffering=True)

PIECE_BYTES = 64 * 1024

Headers = Mapping[str, str | list[str]]


class Body:
    """What the other side sends: whole, or piece by piece in a `for` loop. It can be read once."""

    def __init__(self, incoming: types.IncomingBody):
        self._incoming = incoming

    def __iter__(self) -> Iterator[bytes]:
        with self._incoming as body, body.stream() as stream:
            while True:
                try:
                    yield stream.blocking_read(PIECE_BYTES)
                except Err as error:
                    if isinstance(error.value, StreamError_Closed):
                        return
                    raise

    def read(self) -> bytes:
        return b"".join(self)

    def text(self) -> str:
        return self.read().decode()

    def json(self) -> Any:
        return loads(self.read())


class Request:
    """A request. Names of headers are in lower case."""

    def __init__(self, incoming: types.IncomingRequest):
        path, _, self.query_string = (incoming.path_with_query() or "/").partition("?")
        self.method = _method_name(incoming.method())
        self.path = unquote(path)
        self.host = incoming.authority() or ""
        self.headers = _read_fields(incoming.headers())
        self.body = Body(incoming.consume())

    def query(self, name: str, default: str = "") -> str:
        """A value in the query, decoded; the first one where there are several."""
        return parse_qs(self.query_string, keep_blank_values=True).get(name, [default])[0]


class Response:
    """An answer. Text and bytes are sent at once; of any other iterable, each piece is sent as it comes."""

    def __init__(self, body: str | bytes | Iterable[str | bytes] = b"", status: int = 200, headers: Headers = {}):
        self.body = body
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        if isinstance(body, str):
            self.headers.setdefault("content-type", "text/plain; charset=utf-8")

    @classmethod
    def html(cls, text: str, status: int = 200, headers: Headers = {}) -> "Response":
        return cls(text, status, {"content-type": "text/html; charset=utf-8", **headers})

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Headers = {}) -> "Response":
        return cls(dumps(value), status, {"content-type": "application/json", **headers})


class Fetched:
    """The answer of another host. Names of headers are in lower case."""

    def __init__(self, incoming: types.IncomingResponse):
        self.status = incoming.status()
        self.headers = _read_fields(incoming.headers())
        self.body = Body(incoming.consume())


def fetch(url: str, method: str = "GET", headers: Headers = {}, body: str | bytes = b"") -> Fetched:
    """Sends a request to another host, which the function's `egress` has to allow."""
    parts = urlsplit(url)
    content = body.encode() if isinstance(body, str) else body
    length = {"content-length": str(len(content))} if content else {}
    request = types.OutgoingRequest(_write_fields({**length, **headers}))
    request.set_method(types.Method_Other(method))
    request.set_scheme(types.Scheme_Https() if parts.scheme == "https" else types.Scheme_Http())
    request.set_authority(parts.netloc)
    request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    outgoing = request.body()
    answer = outgoing_handler.handle(request, None)
    _send(outgoing, [content])
    with answer.subscribe() as arrival:
        arrival.block()
    match answer.get():
        case Ok(Ok(incoming)):
            return Fetched(incoming)
        case Ok(Err(reason)):
            raise ConnectionError(f"{method} {url}: {reason}")
        case nothing:
            raise ConnectionError(f"{method} {url}: {nothing}")


def serve(handle: Callable[[Request], Response]) -> type:
    """Makes of `handle` what the node calls."""

    class IncomingHandler(exports.IncomingHandler):
        def handle(self, request: types.IncomingRequest, response_out: types.ResponseOutparam) -> None:
            try:
                response = handle(Request(request))
            except Exception:
                traceback.print_exc()
                response = Response("Internal Server Error\n", status=500)
            outgoing = types.OutgoingResponse(_write_fields(response.headers))
            outgoing.set_status_code(response.status)
            body = outgoing.body()
            types.ResponseOutparam.set(response_out, Ok(outgoing))
            _send(body, [response.body] if isinstance(response.body, (str, bytes)) else response.body)

    return IncomingHandler


def _send(body: types.OutgoingBody, pieces: Iterable[str | bytes]) -> None:
    with body.write() as stream:
        for piece in pieces:
            rest = memoryview(piece.encode() if isinstance(piece, str) else piece)
            while rest:
                room = stream.check_write()
                if room == 0:
                    with stream.subscribe() as readiness:
                        readiness.block()
                    continue
                stream.write(bytes(rest[:room]))
                rest = rest[room:]
            stream.flush()
        stream.blocking_flush()
    types.OutgoingBody.finish(body, None)


def _method_name(method: types.Method) -> str:
    if isinstance(method, types.Method_Other):
        return method.value
    return type(method).__name__.removeprefix("Method_").upper()


def _read_fields(fields: types.Fields) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields.entries():
        name, text = name.lower(), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


def _write_fields(headers: Headers) -> types.Fields:
    entries = [(name, [values] if isinstance(values, str) else values) for name, values in headers.items()]
    return types.Fields.from_list([(name, value.encode("latin-1")) for name, values in entries for value in values])
