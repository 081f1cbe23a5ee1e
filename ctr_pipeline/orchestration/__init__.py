"""The pipeline as Dagster assets, checks, jobs, schedules and sensors: the only room that imports dagster.

Assets are thin: they read table versions, call one function of a room, commit, and return metadata.
"""
