-- Resets by who sent them and why, the program, and the peer.
-- Run it in the history's directory: duckdb < resets-by-cause.duckdb.sql
SELECT
    host,
    close_kind,
    coalesce(close_cause, '(unknown)') AS cause,
    coalesce(closer_name, opener_name, '(unknown)') AS program,
    role,
    CASE WHEN role = 'server' THEN concat_ws(' port ', local_address, local_port)
         ELSE concat_ws(' port ', peer_address, peer_port) END AS service,
    count(*) AS resets,
    max(closed_at) AS latest,
    any_value(evidence) AS example_evidence
FROM read_parquet('date=*/host=*/*.parquet', hive_partitioning = true, union_by_name = true)
WHERE close_kind IN ('reset_sent', 'reset_received')
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY resets DESC
LIMIT 20;
