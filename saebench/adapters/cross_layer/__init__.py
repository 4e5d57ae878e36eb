"""Transcoders by layer and across layers: circuit-tracer, crosslayer-coding."""
