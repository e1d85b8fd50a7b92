"""Pictures → features: convolutional layers, the networks made of them, their weight files, preprocessing."""
