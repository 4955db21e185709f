-- Who makes TIME_WAITs: the programs that close first, and the service whose connections they are.
-- Run it in the history's directory: duckdb < who-makes-time-waits.duckdb.sql
SELECT
    host,
    coalesce(closer_name, '(unknown)') AS program,
    coalesce(unit, cgroup, '(unknown)') AS within,
    role,
    -- A server's peers are its clients: what matters is its own port.
    CASE WHEN role = 'server' THEN concat_ws(' port ', local_address, local_port)
         ELSE concat_ws(' port ', peer_address, peer_port) END AS service,
    count(*) AS time_waits,
    round(sum(time_wait_dwell_ns) / 1e9) AS port_seconds
FROM read_parquet('date=*/host=*/*.parquet', hive_partitioning = true, union_by_name = true)
WHERE time_wait_entry_precision IS NOT NULL
GROUP BY 1, 2, 3, 4, 5
ORDER BY time_waits DESC
LIMIT 20;
