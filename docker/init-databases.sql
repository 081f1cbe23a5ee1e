-- Runs once, when Postgres' volume is empty. The database for Dagster is made by POSTGRES_DB.
CREATE DATABASE mlflow;
