-- The most source ports that were held at once, by source and destination, and when: a client's port
-- is held from its opening to the end of its TIME_WAIT. Connections that have not ended are missing.
-- Run it in the history's directory: clickhouse local < ports-held-by-destination.clickhouse.sql
WITH
    -- Those that ended in a microsecond leave before others come in it.
    steps AS (
        SELECT host, netns_cookie, local_address, peer_address, peer_port,
            arrayJoin([(assumeNotNull(opened_at), 1), (assumeNotNull(ended_at), -1)]) AS both,
            both.1 AS moment, both.2 AS step
        FROM file('date=*/host=*/*.parquet', Parquet)
        WHERE role = 'client' AND local_port IS NOT NULL AND opened_at IS NOT NULL AND ended_at IS NOT NULL
    ),
    held AS (
        SELECT *, sum(step) OVER (
            PARTITION BY host, netns_cookie, local_address, peer_address, peer_port
            ORDER BY moment, step ROWS UNBOUNDED PRECEDING
        ) AS ports
        FROM steps
    )
SELECT
    host, local_address, peer_address, peer_port,
    max(ports) AS most_ports_held,
    argMax(moment, ports) AS most_at,
    countIf(step = 1) AS connections
FROM held
GROUP BY host, netns_cookie, local_address, peer_address, peer_port
ORDER BY most_ports_held DESC
LIMIT 20
SETTINGS use_hive_partitioning = 1;
