"""Words, images and features as integers and arrays, and the files that hold them."""
