"""Fails with what Grafana's own model of a dashboard does not know of the one that is named."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def unknown(here, there, path=""):
    if isinstance(here, dict) and isinstance(there, dict):
        for key, value in here.items():
            if key in there:
                yield from unknown(value, there[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, pair in enumerate(zip(here, there)):
            yield from unknown(*pair, f"{path}/{number}")
    elif here != there:
        yield path


with open(sys.argv[1]) as file:
    dashboard = json.load(file)
known = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))
found = list(unknown(dashboard, known))
if found:
    sys.exit("unknown to Grafana: " + ", ".join(found))
