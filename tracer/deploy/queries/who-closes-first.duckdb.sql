-- Who closes first: this host or its peer, by service. The side that does has the TIME_WAIT.
-- Run it in the history's directory: duckdb < who-closes-first.duckdb.sql
SELECT
    host,
    role,
    CASE WHEN role = 'server' THEN concat_ws(' port ', local_address, local_port)
         ELSE concat_ws(' port ', peer_address, peer_port) END AS service,
    count(*) AS closes,
    count(*) FILTER (WHERE close_initiator = 'local') AS local_first,
    count(*) FILTER (WHERE close_initiator = 'peer') AS peer_first,
    count(*) FILTER (WHERE close_initiator = 'both') AS both_at_once,
    round(100.0 * local_first / closes, 1) AS local_percent,
    -- Over closes that this host began.
    mode(closer_name) FILTER (WHERE close_initiator = 'local') AS mostly_by
FROM read_parquet('date=*/host=*/*.parquet', hive_partitioning = true, union_by_name = true)
WHERE close_kind IN ('active', 'passive', 'simultaneous')
GROUP BY 1, 2, 3
ORDER BY closes DESC
LIMIT 20;
