"""Metrics equal to the official evaluators, from texts and numbers alone: no model, no torch."""
