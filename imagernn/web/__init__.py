"""The local web server, and the data that its pages show."""
