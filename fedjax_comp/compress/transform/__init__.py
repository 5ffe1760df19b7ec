"""Changes of basis in front of a quantizer or a sparsifier."""
