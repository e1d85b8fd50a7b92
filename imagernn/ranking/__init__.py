"""Image-sentence ranking: which sentence fits which image, and which word which region."""
