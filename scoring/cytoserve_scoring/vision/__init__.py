"""From the bytes of a file to cells: decoding, physical scale, stain, detection, crops."""
