-- The most source ports that were held at once, by source and destination, and when: a client's port
-- is held from its opening to the end of its TIME_WAIT. Connections that have not ended are missing.
-- Run it in the history's directory: duckdb < ports-held-by-destination.duckdb.sql
WITH clients AS (
    SELECT host, netns_cookie, local_address, peer_address, peer_port, opened_at, ended_at
    FROM read_parquet('date=*/host=*/*.parquet', hive_partitioning = true, union_by_name = true)
    WHERE role = 'client' AND local_port IS NOT NULL AND opened_at IS NOT NULL AND ended_at IS NOT NULL
),
steps AS (
    SELECT * EXCLUDE (opened_at, ended_at), opened_at AS moment, 1 AS step FROM clients
    UNION ALL
    SELECT * EXCLUDE (opened_at, ended_at), ended_at AS moment, -1 AS step FROM clients
),
-- Those that ended in a microsecond leave before others come in it.
held AS (
    SELECT *, sum(step) OVER (
        PARTITION BY host, netns_cookie, local_address, peer_address, peer_port
        ORDER BY moment, step ROWS UNBOUNDED PRECEDING
    ) AS ports
    FROM steps
)
SELECT
    host, local_address, peer_address, peer_port,
    max(ports)::BIGINT AS most_ports_held,
    arg_max(moment, ports) AS most_at,
    count(*) FILTER (WHERE step = 1) AS connections
FROM held
GROUP BY host, netns_cookie, local_address, peer_address, peer_port
ORDER BY most_ports_held DESC
LIMIT 20;
