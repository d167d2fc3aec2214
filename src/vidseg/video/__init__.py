"""Video and images in and out: files, folders, streams and cameras. It needs no torch."""
