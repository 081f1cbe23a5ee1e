"""What happens by itself: jobs, daily schedules, the late-label sensor, alerts."""
