"""Grafana's dashboards, written here and committed as the JSON that Grafana reads: `scripts/dashboards`.

In the order to read them: `queries` (where panels get their data), `panels` (their looks), `boards` (a dashboard of
them, laid out), `choices` (variables, links and annotations that several have), then one module for each folder of
dashboards: `operations`, `services`, `infrastructure`, `kitchen` with its statements in `kitchen_sql`. `expanding` does
to a query what Grafana does before it sends it, for tests and benches: there is no Grafana here.
"""
