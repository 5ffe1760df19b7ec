"""Trellis-coded quantization: coordinates that are coded together."""
