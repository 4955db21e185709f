-- Who makes TIME_WAITs: the programs that close first, and the service whose connections they are.
-- Run it in the history's directory: clickhouse local < who-makes-time-waits.clickhouse.sql
SELECT
    host,
    coalesce(closer_name, '(unknown)') AS program,
    coalesce(unit, cgroup, '(unknown)') AS within,
    role,
    -- A server's peers are its clients: what matters is its own port.
    if(role = 'server', concatWithSeparator(' port ', local_address, toString(local_port)),
        concatWithSeparator(' port ', peer_address, toString(peer_port))) AS service,
    count() AS time_waits,
    round(sum(time_wait_dwell_ns) / 1e9) AS port_seconds
FROM file('date=*/host=*/*.parquet', Parquet)
WHERE time_wait_entry_precision IS NOT NULL
GROUP BY ALL
ORDER BY time_waits DESC
LIMIT 20
SETTINGS use_hive_partitioning = 1;
