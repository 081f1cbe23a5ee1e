"""The asset graph, in the order of the flow. Each module holds the assets of one part of it."""
