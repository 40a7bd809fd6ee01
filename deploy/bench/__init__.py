"""`scripts/bench`: how fast it is here, and what a message costs.

Read `chain` (one rate, measured), `load` (the devices), `rows` (was everything stored, and when was it to be seen),
`measure` (whose CPU), `telegraf` (the rival), `queries` (50 million rows), `api` (the gateway under
load), `report` and `plots` (docs/performance).
"""
