-- What became known of each key in a window that ends just before each probe. Times are whole microseconds.
-- Rows: probes have an impression_id; moments have none, and one n each.
SELECT day, impression_id, n, hits, latest
FROM (
  SELECT
    day,
    impression_id,
    CAST(sum(n) OVER past AS BIGINT) AS n,
    CAST(sum(hit) OVER past AS BIGINT) AS hits,
    max(moment) OVER past AS latest
  FROM probes_and_moments
  WINDOW past AS (PARTITION BY key ORDER BY instant RANGE BETWEEN window_us PRECEDING AND 1 PRECEDING)
) AS seen
WHERE impression_id IS NOT NULL
