"""The pipeline as Dagster assets, checks, jobs, schedules and sensors: the only package that imports dagster.

Assets are thin: they read table versions, call functions of other packages, commit, and return metadata.
"""
