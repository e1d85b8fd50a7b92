"""A small web server for a browser on this computer: it serves the routes that it is given and nothing else.

No path is ever built from a URL, so a request cannot escape from a folder. Requests are limited in size, time and
number. Knows nothing of what the pages show.
"""

import io
import os
import socketserver
import stat
import sys
import threading
import time
import webbrowser
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

from imagernn.errors import InputError, shown
from imagernn.formats.names import stays_inside

PACKAGE = Path(__file__).resolve().parents[1]
VIS = PACKAGE / 'vis' if (PACKAGE / 'vis').is_dir() else PACKAGE.parent / 'vis'    # installed; in a checkout
MOST_HEAD_BYTES = 2 ** 15     # of a request; includes the cookies that other servers on this host have set
HEAD_SECONDS = 10             # for a request to arrive
ANSWER_SECONDS = 120          # for the browser to receive the response
MOST_THREADS = 256
MOST_PARAMETERS = 10          # of a URL, after ?
PORTS_TRIED = 100
CHUNK = 2 ** 20               # bytes of a response that are sent at once
TYPES = {'.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8',
         '.js': 'text/javascript; charset=utf-8', '.json': 'application/json', '.jpg': 'image/jpeg',
         '.jpeg': 'image/jpeg', '.png': 'image/png', '.gif': 'image/gif', '.bmp': 'image/bmp', '.webp': 'image/webp'}
HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-cache',
    'Connection': 'close',
}


class BadRequest(Exception):
    """That a URL asks for something impossible, such as photo number "x"; the message is sent with status 400."""


def serve(routes, port=0, open_browser=True, first='/'):
    """Serve routes on 127.0.0.1 until Ctrl-C; print the URL of the path `first` and open it in the browser.

    routes, port: see serving. Raises InputError as serving does.
    """
    with serving(routes, port) as address:
        try:
            if port and not address.endswith(f':{port}'):
                print(f'port {port} is taken')
            print(f'open {address}{first} in a browser; press Ctrl-C to stop', flush=True)
            if open_browser and _has_screen():
                webbrowser.open(address + first)
            while True:
                time.sleep(1)    # no longer: if another thread receives the signal, this one notices it only afterwards
        except KeyboardInterrupt:
            print()


@contextmanager
def serving(routes, port=0):
    """Serve in the background during the with-block. Yields the address, http://127.0.0.1:PORT, without a slash.

    routes: URL path, exactly as a browser sends it -> function() returning (content type, bytes), or the pair
    (content type, Path). A path that ends in ?, such as '/search?', stands for all URLs that go on from there, and its
    function gets their parameters, a dict of str; it may raise BadRequest, and FileNotFoundError for 404. Routes may be
    added and removed while they are served. A Path must be resolved, as real_file returns it; if it is not a regular
    file, or has become a link, the response is 404. port: 0 for any free one; if it is taken, the next free one is
    used. Raises InputError if none of PORTS_TRIED ports is available.
    """
    server = _bind(routes, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .1}, daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page_routes(page, *names):
    """The routes of a page: '/' is the file `page` in vis/, '/NAME' each of the other files in vis/ that it loads."""
    return {'/': (TYPES['.html'], VIS / page), **{f'/{name}': (TYPES[Path(name).suffix], VIS / name) for name in names}}


def real_file(path, folder):
    """`path` with all links resolved, if that is a regular file in folder; else None."""
    try:
        real = Path(path).resolve(strict=True)
        return real if real.is_file() and stays_inside(real, folder) else None
    except (OSError, ValueError, RuntimeError):          # absent or forbidden; a zero byte; a circle of links
        return None


def parameters_of(query):
    """The part of a URL after ? as a dict of str: of each parameter the first value. Raises BadRequest."""
    try:
        if not query.isascii():
            raise ValueError('other characters are sent as %XX')
        return {name: values[0] for name, values in parse_qs(
            query, keep_blank_values=True, strict_parsing=bool(query), errors='strict',
            max_num_fields=MOST_PARAMETERS).items()}
    except ValueError:
        raise BadRequest('the part of the address after ? is malformed') from None


def _has_screen():
    """Whether webbrowser would open a window rather than a text browser in this terminal."""
    return not sys.platform.startswith('linux') or any(map(os.environ.get, ('DISPLAY', 'WAYLAND_DISPLAY', 'BROWSER')))


def _bind(routes, port):
    """A server on this port or one of the next; see serving."""
    if not 0 <= port <= 65535:
        raise InputError(f'--port {port}: must be between 0 (any free port) and 65535')
    error = None
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        try:
            return _Server(('127.0.0.1', candidate), routes)
        except OSError as taken:
            error = taken
    raise InputError(f'--port {port}: is not available, nor are the next ones ({error.strerror}); choose a port above '
                     '1023, or 0 for any free one')


class _Server(socketserver.ThreadingTCPServer):
    """Answers at most MOST_THREADS requests at once, each in a thread that ends with the program."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name == 'posix'             # on other systems it would share a port that is taken
    request_queue_size = MOST_THREADS

    def __init__(self, address, routes):
        super().__init__(address, _Handler)
        port = self.server_address[1]
        self.routes = routes
        self.hosts = {f'localhost:{port}', f'127.0.0.1:{port}'}
        self._free = threading.BoundedSemaphore(MOST_THREADS)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):   # a client that left or was too slow is not reported
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Handles one request and sends one response, then the connection closes."""

    server_version = 'imagernn'
    sys_version = ''

    def handle(self):
        head = self._read_head()
        if not head:
            return
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if len(head) > MOST_HEAD_BYTES:
            self.requestline, self.request_version, self.command = '', self.protocol_version, ''
            self.send_error(431, f'a request may have at most {MOST_HEAD_BYTES} bytes')
        elif not self.parse_request():
            return                                       # parse_request has sent an error
        elif self.command not in ('GET', 'HEAD'):
            self.send_error(405, 'only GET and HEAD are supported')
        elif not self._has_our_host():
            self.send_error(403, f'use the address http://127.0.0.1:{self.server.server_address[1]}/')
        else:
            self._answer()

    def _read_head(self):
        """The head of the request; empty if it does not arrive completely in time; over MOST_HEAD_BYTES if too long."""
        head = b''
        deadline = time.monotonic() + HEAD_SECONDS
        while b'\r\n\r\n' not in head and len(head) <= MOST_HEAD_BYTES:
            self.connection.settimeout(max(.001, deadline - time.monotonic()))
            part = self.connection.recv(2 ** 14)
            if not part:
                return b''
            head += part
        return head

    def _has_our_host(self):
        """Whether the Host header names this server; else a foreign page may be trying to read it (DNS rebinding)."""
        hosts = self.headers.get_all('Host', [])
        return len(hosts) == 1 and hosts[0].strip().lower() in self.server.hosts

    def _answer(self):
        """Send what the route of the path gives, or an error."""
        path, _, query = self.path.partition('?')
        asked = self.server.routes.get(f'{path}?')
        route = self.server.routes.get(self.path) if asked is None else lambda: asked(parameters_of(query))
        if route is None:
            return self.send_error(404, 'there is nothing at this address')
        try:
            kind, content = route() if callable(route) else route
            if isinstance(content, Path):
                descriptor = open_plain(content)
                size = os.fstat(descriptor).st_size
                file = open(descriptor, 'rb')
            else:
                size = len(content)
                file = io.BytesIO(content)
        except BadRequest as error:
            return self.send_error(400, str(error))
        except OSError as error:
            print(shown(f'warning: {self.path} cannot be served: {error}'), file=sys.stderr)
            return self.send_error(404, 'the file cannot be read')
        except Exception:
            self.send_error(500, 'an internal error; the terminal of the server shows it')
            raise
        with file:
            self.send_response(200)
            self.send_header('Content-Type', kind)
            self.send_header('Content-Length', str(size))
            self.end_headers()
            if self.command == 'GET':
                self._send(file, size)

    def _send(self, file, size):
        """Send the first `size` bytes of a file. Raises TimeoutError if the client does not receive them in time."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while size and (part := file.read(min(size, CHUNK))):
            self.connection.settimeout(max(.001, deadline - time.monotonic()))
            self.wfile.write(part)
            size -= len(part)

    def send_error(self, code, message=None, explain=None):
        """Send an error as plain text."""
        self.connection.settimeout(HEAD_SECONDS)
        text = f'{code}: {message or self.responses[code][0]}\n'.encode('utf-8', 'replace')
        self.send_response(code, self.responses[code][0])
        self.send_header('Content-Type', 'text/plain; charset=utf-8')
        self.send_header('Content-Length', str(len(text)))
        if code == 405:
            self.send_header('Allow', 'GET, HEAD')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(text)

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format, *args):
        pass


def open_plain(path):
    """Open the regular file at a resolved path -> a file descriptor. Does not block on a FIFO.

    Raises OSError if the path contains a link, is relative, or is not a regular file.
    """
    if os.path.realpath(path) != str(path):
        raise OSError(f'{path} is not a resolved path: it contains a link or is relative')
    descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_NONBLOCK', 0)
                         | getattr(os, 'O_BINARY', 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f'{path} is not a regular file')
    return descriptor
