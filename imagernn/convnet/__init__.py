"""Convolutional networks: layers, pretrained networks and their weight files, feature extraction, training."""
