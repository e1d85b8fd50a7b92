"""A folder of photos that is captioned, and searched by sentences: its index, the search, and the album's routes."""
