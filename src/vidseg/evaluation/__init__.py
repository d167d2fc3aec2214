"""Scoring models and label maps against labels, and along the motion of a video."""
