"""Running models on videos and data sets: streams, windows, pictures, scores."""
