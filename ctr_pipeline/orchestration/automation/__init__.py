"""Automation: jobs, daily schedules, the late-label sensor, alerts."""
