"""Compressors that spend at most what their link may, decided inside jit."""
