"""The server for this machine alone, and the data of the pages."""
