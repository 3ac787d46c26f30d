"""How a probability is stored in a raster: uint8, 0 to 254 for 0 to 1, and 255 where the photo has no data."""

FULL, NO_DATA = 254, 255
