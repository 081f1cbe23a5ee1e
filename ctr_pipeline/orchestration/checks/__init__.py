"""What is asked of every materialisation. A check is a name, a severity, and a verdict with its figures.

Blocking checks stop what is downstream in the same run; the consuming assets guard themselves in later runs.
"""
