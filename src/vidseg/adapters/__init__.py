"""Segmenters made of something else: image models, halves, a sliding window, a local memory."""
