"""From what a model was made: table versions, libraries, hardware, code."""
