"""Videos in and out: sources, packets, frames, sound, cuts, drawing. Needs no torch."""
