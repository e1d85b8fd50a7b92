"""Other people's files: read without trust, written whole or not at all."""
