"""The local web server, and the data that its pages show."""

THUMBNAIL = 400      # pixels of the longer side of a picture in an exported page
