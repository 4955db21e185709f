-- How long TIME_WAITs took, measured, by destination; what ended them; how many were refreshed.
-- Run it in the history's directory: clickhouse local < dwell-by-destination.clickhouse.sql
SELECT
    host,
    peer_address,
    peer_port,
    count() AS time_waits,
    round(quantileExactInclusive(0.5)(time_wait_dwell_ns) / 1e9, 3) AS p50_seconds,
    round(quantileExactInclusive(0.99)(time_wait_dwell_ns) / 1e9, 3) AS p99_seconds,
    round(max(time_wait_dwell_ns) / 1e9, 3) AS max_seconds,
    countIf(time_wait_exit LIKE 'reused%') AS reused,
    countIf(time_wait_refreshes > 0) AS refreshed
FROM file('date=*/host=*/*.parquet', Parquet)
-- Only dwells of which the entry is known well.
WHERE role = 'client' AND time_wait_dwell_ns IS NOT NULL AND time_wait_entry_precision IN ('exact', 'jiffy')
GROUP BY ALL
ORDER BY time_waits DESC
LIMIT 20
SETTINGS use_hive_partitioning = 1;
