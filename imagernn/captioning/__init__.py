"""The captioning task: the model of images and words, its batches, evaluation and results."""
