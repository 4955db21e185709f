-- Who closes first: this host or its peer, by service. The side that does has the TIME_WAIT.
-- Run it in the history's directory: clickhouse local < who-closes-first.clickhouse.sql
SELECT
    host,
    role,
    if(role = 'server', concatWithSeparator(' port ', local_address, toString(local_port)),
        concatWithSeparator(' port ', peer_address, toString(peer_port))) AS service,
    count() AS closes,
    countIf(close_initiator = 'local') AS local_first,
    countIf(close_initiator = 'peer') AS peer_first,
    countIf(close_initiator = 'both') AS both_at_once,
    round(100 * local_first / closes, 1) AS local_percent,
    -- Over closes that this host began.
    topKIf(1)(closer_name, close_initiator = 'local')[1] AS mostly_by
FROM file('date=*/host=*/*.parquet', Parquet)
WHERE close_kind IN ('active', 'passive', 'simultaneous')
GROUP BY ALL
ORDER BY closes DESC
LIMIT 20
SETTINGS use_hive_partitioning = 1;
