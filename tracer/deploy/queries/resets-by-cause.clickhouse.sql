-- Resets by who sent them and why, the program, and the peer.
-- Run it in the history's directory: clickhouse local < resets-by-cause.clickhouse.sql
SELECT
    host,
    close_kind,
    coalesce(close_cause, '(unknown)') AS cause,
    coalesce(closer_name, opener_name, '(unknown)') AS program,
    role,
    if(role = 'server', concatWithSeparator(' port ', local_address, toString(local_port)),
        concatWithSeparator(' port ', peer_address, toString(peer_port))) AS service,
    count() AS resets,
    max(closed_at) AS latest,
    any(evidence) AS example_evidence
FROM file('date=*/host=*/*.parquet', Parquet)
WHERE close_kind IN ('reset_sent', 'reset_received')
GROUP BY ALL
ORDER BY resets DESC
LIMIT 20
SETTINGS use_hive_partitioning = 1;
