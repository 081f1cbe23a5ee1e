"""Raw impression and event logs in; a served, calibrated click and funnel model out, rebuilt every day."""

__version__ = "0.1.0"
