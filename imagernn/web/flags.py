"""The flags of the commands that serve a page. Imports nothing that takes long."""


def add_server_flags(parser, port=0):
    """Where the page is served, and whether a browser opens it. port: the default of --port."""
    add = parser.add_argument_group('server').add_argument
    add('--port', type=int, default=port,
        help='The port to serve the page on; if it is taken, the next free one is used. Set it to keep the same '
             'address each time; 0 is any free port (default: %(default)s).')
    add('--no_browser', action='store_true',
        help='Print the address of the page without opening a browser, for example on a remote computer.')
