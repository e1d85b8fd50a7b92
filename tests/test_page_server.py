"""The page server as a browser, a careless program and a hostile one see it: what it gives, and what it refuses."""

import os
import socket
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagernn.errors import InputError
from imagernn.web import server
from imagernn.web.server import BadRequest, page_routes, real_file, serve, serving

SECRET = b'nobody may read this'


def fill(folder):
    (folder / 'open').mkdir()
    (folder / 'secret').write_bytes(SECRET)
    (folder / 'open' / 'given.txt').write_bytes(b'as a file')
    (folder / 'open' / 'other.txt').write_bytes(SECRET)
    return folder


def routes_of(folder):
    return {'/': lambda: ('text/html; charset=utf-8', b'<title>as a function</title>'),
            '/given.txt': ('text/plain', folder / 'open' / 'given.txt')}


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


@pytest.fixture
def routes(folder):
    return routes_of(folder)


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """The folder and the address of one server for all tests that only ask."""
    folder = fill(tmp_path_factory.mktemp('served'))
    with serving(routes_of(folder)) as address:
        yield folder, address


@pytest.fixture
def address(served):
    yield served[1]
    assert answer(served[1], b'GET / HTTP/1.1')[0] == 200, 'it no longer answers'


def exchange(address, data, shut=False):
    """All that comes back for these bytes; what it wrote before it cut the connection."""
    port, found = int(address.rpartition(':')[2]), b''
    with socket.create_connection(('127.0.0.1', port), timeout=10) as connection:
        try:
            connection.sendall(data)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2 ** 16):
                found += part
        except (BrokenPipeError, ConnectionResetError):    # it need not read all of what it refuses
            pass
    return found


def answer(address, line, *headers, host=None):
    """(status, dict of headers, body) of a request with this first line."""
    host = host if host is not None else address.removeprefix('http://').encode()
    data = b'\r\n'.join([line, *([b'Host: ' + host] if host else []), *headers, b'', b''])
    head, _, body = exchange(address, data).partition(b'\r\n\r\n')
    first, *lines = head.decode('latin-1').split('\r\n')
    return int(first.split()[1]), dict(line.split(': ', 1) for line in lines), body


def test_a_function_and_a_file_are_served_with_headers_that_bind_the_page(address):
    status, headers, body = answer(address, b'GET / HTTP/1.1')
    assert (status, body) == (200, b'<title>as a function</title>')
    assert headers['Content-Type'] == 'text/html; charset=utf-8' and headers['Content-Length'] == str(len(body))
    policy = dict(part.split(' ', 1) for part in headers['Content-Security-Policy'].split('; '))
    assert policy['default-src'] == "'none'" and policy['script-src'] == policy['connect-src'] == "'self'"
    assert headers['X-Content-Type-Options'] == 'nosniff' and headers['Referrer-Policy'] == 'no-referrer'
    status, headers, body = answer(address, b'GET /given.txt HTTP/1.0')
    assert (status, body, headers['Content-Type']) == (200, b'as a file', 'text/plain')


def test_head_gives_the_headers_alone(address):
    for url, size in (b'/', 28), (b'/given.txt', 9):
        status, headers, body = answer(address, b'HEAD ' + url + b' HTTP/1.1')
        assert (status, headers['Content-Length'], body) == (200, str(size), b'')
    assert answer(address, b'HEAD /absent HTTP/1.1')[::2] == (404, b'')


def test_a_browsers_own_client_reads_it(address):
    with urllib.request.urlopen(f'{address.replace("127.0.0.1", "localhost")}/given.txt', timeout=10) as response:
        assert response.read() == b'as a file'


@pytest.mark.parametrize('url', [
    b'/../secret', b'/%2e%2e/secret', b'/%2e%2e%2fsecret', b'/%252e%252e%252fsecret', b'/..%5csecret', b'/..\\secret',
    b'/given.txt/../other.txt', b'/other.txt', b'/open/', b'/open/given.txt', b'/given.txt/', b'/given.txt%00', b'/./',
    b'/given.txt\x00.html', b'/given.txt?x', b'/given%2etxt', b'/GIVEN.TXT', b'/\xc3\xa4', b'/%', b'*', b'given.txt',
    b'/etc/passwd', b'//etc/passwd', b'/%2fetc/passwd', b'file:///etc/passwd', b'http://127.0.0.1/given.txt',
    b'/C:/secret', b'/~root', b'/given.txt;x', b'/__class__'])
def test_no_other_url_exists(address, url):
    status, headers, body = answer(address, b'GET ' + url + b' HTTP/1.1')
    assert status in (400, 404) and SECRET not in body and b'root:' not in body
    assert headers['Content-Type'].startswith('text/plain') and headers['X-Content-Type-Options'] == 'nosniff'


def test_the_file_systems_own_names_lead_nowhere_either(served):
    folder, address = served
    for name in 'secret', 'open/other.txt':
        assert answer(address, b'GET ' + str(folder / name).encode() + b' HTTP/1.1')[0] == 404


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT', 'PATCH', 'get', 'ODD'])
def test_only_get_and_head(address, method):
    status, headers, _ = answer(address, f'{method} / HTTP/1.1'.encode(), b'Content-Length: 3')
    assert status == 405 and headers['Allow'] == 'GET, HEAD'


@pytest.mark.parametrize('host', [b'evil.example', b'evil.example:{port}', b'127.0.0.1', b'localhost:1', b'',
                                  b'127.0.0.1:{port}.evil.example', b'evil@127.0.0.1:{port}', b'[::1]:{port}',
                                  b'127.0.0.1:{port}\r\nHost: evil.example'])
def test_a_page_elsewhere_whose_name_points_here_is_refused(address, host):
    host = host.replace(b'{port}', address.rpartition(':')[2].encode())
    status, _, body = answer(address, b'GET / HTTP/1.1', host=host)
    assert status == 403 and b'as a function' not in body and address.encode() in body


@pytest.mark.parametrize('data', [
    b'\r\n\r\n', b'GET\r\n\r\n', b'GET /\r\n\r\n', b'GET / HTTP/9.9\r\n\r\n', b'GET / HTTP/x\r\n\r\n',
    b'GET  /  HTTP/1.1  x\r\n\r\n',
    b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n', b'\x00' * 100 + b'\r\n\r\n', b'\xff\xfe\r\n\r\n',
    b'GET / HTTP/1.1\r\nHost\r\n\r\n', b'GET / HTTP/1.1\r\n: x\r\n\r\n', b'GET / HTTP/1.1\r\nHost: \xff\xff\r\n\r\n',
    b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * 500 + b'\r\n', b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    b'GET / HTTP/1.1\r\nHost: x'])
def test_malformed_requests_get_no_page(address, data):
    assert b'as a function' not in exchange(address, data, shut=True)


@pytest.mark.parametrize('data', [b'GET /' + b'a' * 10 ** 7, b'GET / HTTP/1.1\r\nX: ' + b'a' * 10 ** 7 + b'\r\n\r\n',
                                  b'GET / HTTP/1.1\r\n' + b'X: a\r\n' * 10 ** 6, b'a' * 10 ** 7])
def test_huge_requests_are_cut_off(address, data, monkeypatch):
    monkeypatch.setattr(server, 'HEAD_SECONDS', 60)    # longer than exchange waits: it is the size that ends them
    found = exchange(address, data)
    assert b'as a function' not in found and (not found or b' 431 ' in found.split(b'\r\n')[0])


def test_a_long_body_is_not_waited_for(address):
    assert b'405' in exchange(address, b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n')[:20]


def test_slow_clients_are_let_go_and_do_not_keep_others_from_their_answers(routes, monkeypatch):
    monkeypatch.setattr(server, 'HEAD_SECONDS', .5)
    with serving(routes) as address:
        port = int(address.rpartition(':')[2])
        silent = [socket.create_connection(('127.0.0.1', port)) for _ in range(20)]
        slow = socket.create_connection(('127.0.0.1', port))
        assert answer(address, b'GET / HTTP/1.1')[0] == 200
        ended = False
        for _ in range(60):                                # a byte now and then does not buy more time
            try:
                slow.sendall(b'G')
                time.sleep(.05)
            except OSError:
                ended = True
                break
        assert ended
        for connection in silent:
            connection.settimeout(10)
            assert connection.recv(1) == b''
            connection.close()
        slow.close()


def test_one_that_does_not_take_its_answer_is_let_go(monkeypatch):
    monkeypatch.setattr(server, 'ANSWER_SECONDS', .2)
    ended, handle = threading.Event(), server._Handler.handle

    def noted(self):
        try:
            handle(self)
        finally:
            ended.set()

    monkeypatch.setattr(server._Handler, 'handle', noted)
    with serving({'/': lambda: ('text/plain', b'x' * 2 ** 26)}) as address:
        with socket.create_connection(('127.0.0.1', int(address.rpartition(':')[2]))) as connection:
            connection.sendall(f'GET / HTTP/1.1\r\nHost: {address[7:]}\r\n\r\n'.encode())
            assert ended.wait(8)                           # less than HEAD_SECONDS


def test_more_clients_than_threads_are_turned_away_and_it_lives(routes, monkeypatch):
    monkeypatch.setattr(server, 'MOST_THREADS', 3)
    monkeypatch.setattr(server, 'HEAD_SECONDS', 30)
    with serving(routes) as address:
        port = int(address.rpartition(':')[2])
        kept = [socket.create_connection(('127.0.0.1', port)) for _ in range(3)]
        assert exchange(address, f'GET / HTTP/1.1\r\nHost: {address[7:]}\r\n\r\n'.encode()) == b''
        for connection in kept:
            connection.close()
        deadline = time.monotonic() + 10
        while not exchange(address, f'GET / HTTP/1.1\r\nHost: {address[7:]}\r\n\r\n'.encode()):
            assert time.monotonic() < deadline


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs links and pipes')
def test_what_became_a_link_a_folder_or_a_pipe_is_not_served(folder, routes, capsys):
    given = folder / 'open' / 'given.txt'
    with serving(routes) as address:
        check_replaced(folder, routes, address, given)
    assert capsys.readouterr().err.count('warning: /given.txt cannot be served') == 4


def check_replaced(folder, routes, address, given):
    for replace in (lambda: given.symlink_to(folder / 'secret'), given.mkdir, lambda: os.mkfifo(given)):
        given.unlink() if not given.is_dir() else given.rmdir()
        replace()
        status, _, body = answer(address, b'GET /given.txt HTTP/1.1')
        assert status == 404 and SECRET not in body
    given.unlink()
    assert answer(address, b'GET /given.txt HTTP/1.1')[0] == 404
    (folder / 'door').symlink_to(folder / 'open')
    (folder / 'open' / 'given.txt').write_bytes(b'here')
    routes['/door'] = ('text/plain', folder / 'door' / 'given.txt')
    assert answer(address, b'GET /door HTTP/1.1')[0] == 404


def test_real_file_knows_what_lies_in_the_folder(folder):
    inside = folder / 'open'
    assert real_file(inside / 'given.txt', inside) == (inside / 'given.txt').resolve()
    for name in '../secret', '..', '', 'absent', 'a\0b', 'given.txt/x', str(folder / 'secret'), '../open2/x':
        assert real_file(inside / name, inside) is None
    (inside / 'out').symlink_to(folder / 'secret')
    (inside / 'within').symlink_to('given.txt')
    (inside / 'round').symlink_to('round')
    assert real_file(inside / 'out', inside) is None and real_file(inside / 'round', inside) is None
    assert real_file(inside / 'within', inside) == (inside / 'given.txt').resolve()
    (folder / 'open2').mkdir()
    (folder / 'open2' / 'x').touch()
    assert real_file(inside / '../open2/x', inside) is None


def test_an_error_in_a_function_is_told_and_ends_nothing(routes, capsys):
    routes['/broken'] = lambda: 1 / 0
    with serving(routes) as address:
        status, _, body = answer(address, b'GET /broken HTTP/1.1')
        assert status == 500 and b'ZeroDivisionError' not in body
        assert answer(address, b'GET / HTTP/1.1')[0] == 200
    assert 'ZeroDivisionError' in capsys.readouterr().err


def test_routes_may_grow_while_they_are_served(routes):
    with serving(routes) as address:
        assert answer(address, b'GET /later HTTP/1.1')[0] == 404
        routes['/later'] = lambda: ('text/plain', b'now')
        assert answer(address, b'GET /later HTTP/1.1')[2] == b'now'


@pytest.fixture(scope='module')
def asking():
    """The address of a server whose route takes parameters."""
    def search(parameters):
        if 'absent' in parameters:
            raise FileNotFoundError('absent')
        if 'photo' in parameters:
            raise BadRequest('photo is not a number')
        return 'text/plain', repr(parameters).encode()

    with serving({'/search?': search, '/': ('text/plain', Path('/absent'))}) as address:
        yield address


@pytest.mark.parametrize('query, parameters', [
    (b'', {}), (b'?', {}), (b'?q=', {'q': ''}), (b'?q=a+dog%20runs&n=3', {'q': 'a dog runs', 'n': '3'}),
    (b'?q=a&q=b', {'q': 'a'}), (b'?q=?/../x', {'q': '?/../x'}), (b'?q=%C3%A9%00%3Cscript%3E', {'q': 'é\0<script>'}),
    (b'?q=%zz', {'q': '%zz'})])
def test_a_route_with_parameters_gets_them_as_text(asking, query, parameters):
    assert answer(asking, b'GET /search' + query + b' HTTP/1.1')[::2] == (200, repr(parameters).encode())


@pytest.mark.parametrize('query', [b'q', b'&', b'q=a&b', b'q=%ff', b'q=\xc3\xa9', b'q=' + b'&q=' * 20, b'photo=x'])
def test_malformed_parameters_are_a_bad_request(asking, query):
    status, headers, body = answer(asking, b'GET /search?' + query + b' HTTP/1.1')
    assert status == 400 and headers['Content-Type'].startswith('text/plain') and len(body) < 100


def test_what_parameters_do_not_lead_to_is_not_found(asking, capsys):
    assert answer(asking, b'GET /search?absent=%1b\x1b HTTP/1.1')[0] == 404
    assert answer(asking, b'GET /search?absent=%1b HTTP/1.1')[0] == 404
    for url in b'/?q=a', b'/search/?q=a', b'/other?q=a':
        assert answer(asking, b'GET ' + url + b' HTTP/1.1')[0] == 404
    assert '\x1b' not in capsys.readouterr().err


def test_it_is_on_this_machines_own_address_and_a_taken_port_is_passed_over(routes):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with serving(routes, port) as address:
            assert address.startswith('http://127.0.0.1:') and port < int(address.rpartition(':')[2]) <= port + 100
            assert answer(address, b'GET / HTTP/1.1')[0] == 200


@pytest.mark.parametrize('port', [-1, 65536])
def test_a_port_that_cannot_be_is_said(port):
    with pytest.raises(InputError, match=f'--port {port}: '), serving({}, port):
        pass


def test_serve_prints_the_address_opens_the_browser_and_ends_with_ctrl_c(routes, monkeypatch, capsys):
    opened = []

    def interrupted(seconds):
        with urllib.request.urlopen(opened[0], timeout=10) as response:
            assert response.read() == b'as a file'
        raise KeyboardInterrupt

    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(server.webbrowser, 'open', opened.append)
    monkeypatch.setattr(server, 'time', SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        serve(routes, port, first='/given.txt')
    out = capsys.readouterr().out
    assert f'port {port} is taken' in out and opened[0] in out and opened[0].endswith('/given.txt')


def test_a_pages_own_files():
    routes = page_routes('monitor.html', 'common.css', 'common.js')
    assert list(routes) == ['/', '/common.css', '/common.js']
    assert all(isinstance(path, Path) and path.is_file() for _, path in routes.values())
    assert [kind.partition(';')[0] for kind, _ in routes.values()] == ['text/html', 'text/css', 'text/javascript']
