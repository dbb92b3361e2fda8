"""Content vectors to Semantic ID codes: three quantizers, their training, the codebook artifact, and how good it is."""
