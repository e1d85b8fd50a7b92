"""Words, images and features as integers and arrays."""
