"""Pipelines of papers under the papers' names."""
