"""File formats of other programs: read without trust, written completely or not at all."""
