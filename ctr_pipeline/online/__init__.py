"""What happens beside a model while it serves.

The store of what is known of the past, for look-ups; the log of its inputs, and whether these are what training would make.
Nothing here loads torch. Clocks and folders are passed in.
"""
