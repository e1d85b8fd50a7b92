"""Translation: sentences of one language to sentences of another, by an encoder and a decoder."""
