-- How long TIME_WAITs took, measured, by destination; what ended them; how many were refreshed.
-- Run it in the history's directory: duckdb < dwell-by-destination.duckdb.sql
SELECT
    host,
    peer_address,
    peer_port,
    count(*) AS time_waits,
    round(quantile_cont(time_wait_dwell_ns, 0.5) / 1e9, 3) AS p50_seconds,
    round(quantile_cont(time_wait_dwell_ns, 0.99) / 1e9, 3) AS p99_seconds,
    round(max(time_wait_dwell_ns) / 1e9, 3) AS max_seconds,
    count(*) FILTER (WHERE time_wait_exit LIKE 'reused%') AS reused,
    count(*) FILTER (WHERE time_wait_refreshes > 0) AS refreshed
FROM read_parquet('date=*/host=*/*.parquet', hive_partitioning = true, union_by_name = true)
-- Only dwells of which the entry is known well.
WHERE role = 'client' AND time_wait_dwell_ns IS NOT NULL AND time_wait_entry_precision IN ('exact', 'jiffy')
GROUP BY 1, 2, 3
ORDER BY time_waits DESC
LIMIT 20;
