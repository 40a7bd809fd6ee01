"""What every dashboard owes to who looks at it, and that what is committed is what the code writes."""

import json
import re
from collections import Counter
from itertools import combinations
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml
from grafana_foundation_sdk.models import units

from deploy.local.layout import REPOSITORY
from grafana.__main__ import stale
from grafana.committed import BOARDS, FOLDER, FOLDERS, links, panels

PROVISIONING = REPOSITORY / "grafana" / "provisioning"
SOURCES = yaml.safe_load((PROVISIONING / "datasources" / "brigade.yaml").read_text())["datasources"]
PROVIDERS = yaml.safe_load((PROVISIONING / "dashboards" / "brigade.yaml").read_text())["providers"]
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}

every_board = pytest.mark.parametrize("uid", BOARDS)


def test_what_is_committed_is_current():
    assert not stale(), "scripts/dashboards writes them"


def test_a_file_is_named_after_its_uid_and_no_two_are_alike():
    assert {uid: board["uid"] for uid, board in BOARDS.items()} == {uid: uid for uid in BOARDS}
    assert len(list(FOLDER.rglob("*.json"))) == len(BOARDS)
    assert max(Counter(board["title"] for board in BOARDS.values()).values()) == 1


@every_board
def test_nobody_can_change_it_in_the_browser_alone(uid):
    assert BOARDS[uid]["editable"] is False
    assert "id" not in BOARDS[uid]


@every_board
def test_every_panel_says_what_it_shows_in_which_unit_from_where(uid):
    sources = {(source["type"], source["uid"]) for source in SOURCES}
    for panel in panels(BOARDS[uid]):
        assert panel["title"], panel
        assert len(panel["description"]) > len(panel["title"]), panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS | {"bool_on_off", "mps"}, panel["title"]
        assert (panel["datasource"]["type"], panel["datasource"]["uid"]) in sources, panel["title"]
        assert panel["targets"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {panel["datasource"]["uid"]}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    titles = Counter(panel["title"] for panel in panels(BOARDS[uid]) if panel["type"] != "stat")
    assert max(titles.values()) <= 2, titles


@every_board
def test_panels_lie_side_by_side_on_the_grid(uid):
    places = [panel["gridPos"] for panel in BOARDS[uid]["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    ids = [panel["id"] for panel in BOARDS[uid]["panels"]]
    assert len(set(ids)) == len(ids)


@every_board
def test_links_lead_to_dashboards_and_their_variables(uid):
    for url in links(BOARDS[uid]):
        parts = urlsplit(url)
        assert parts.path.startswith("/d/"), url
        there = parts.path.removeprefix("/d/")
        assert there in BOARDS, url
        names = {name for name, _ in parse_qsl(parts.query.replace("${__url_time_range}", "from=a&to=b"))}
        known = {f"var-{variable['name']}" for variable in BOARDS[there]["templating"]["list"]}
        assert names - {"from", "to"} <= known, url


@every_board
def test_there_is_a_way_up_and_one_down(uid):
    """Every board leads on, and every board is led to by another."""
    ways = {there for url in links(BOARDS[uid]) if (there := urlsplit(url).path.removeprefix("/d/")) != uid}
    tags = {tag for link in BOARDS[uid]["links"] for tag in link["tags"] or () if tag != "brigade"}
    assert ways | tags
    others = [board for other, board in BOARDS.items() if other != uid]
    assert any(f"/d/{uid}" in json.dumps(board) for board in others) or any(
        FOLDERS[uid] in (link["tags"] or ()) for board in others for link in board["links"]
    )


@every_board
def test_links_from_a_row_name_columns_of_its_query(uid):
    for panel in panels(BOARDS[uid]):
        for column in re.findall(r"__data\.fields\.(\w+)", json.dumps(panel)):
            sql = panel["targets"][0].get("rawSql", "")
            assert re.search(rf"\b(AS {column}|{column},)", sql), (panel["title"], column)


@every_board
def test_rates_are_taken_over_the_rate_interval(uid):
    """Or over a time that the panel's text names."""
    for panel in panels(BOARDS[uid]):
        for target in panel["targets"]:
            for window in re.findall(r"rate\([^[]*\[([^\]]+)\]", target.get("expr", "")):
                assert window == "$__rate_interval", (panel["title"], window)


@every_board
def test_no_site_device_or_address_is_written_in(uid):
    text = json.dumps(BOARDS[uid])
    assert not re.findall(r"\b\d+\.\d+\.\d+\.\d+\b|localhost|seoul|paris|\bdemo\b|fridge-\d", text)
    for panel in panels(BOARDS[uid]):
        for target in panel["targets"]:
            assert not re.search(r"""(site|instance|device)="[^$"]""", target.get("expr", "")), target


@every_board
def test_variables_that_are_used_are_there_and_the_other_way_round(uid):
    board = BOARDS[uid]
    there = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps([board["panels"], board["templating"], board["annotations"]])
    used = {a or b for a, b in re.findall(r"\$(?:\{(\w+)|(\w+))", text)}
    assert {name for name in used if not name.startswith("__")} == there
    assert all(variable["label"] and variable["description"] for variable in board["templating"]["list"])


@every_board
def test_deployments_and_alerts_are_marked(uid):
    names = {annotation["name"] for annotation in BOARDS[uid]["annotations"]["list"]}
    assert names == {"Alerts", "Starts and deployments"}


@every_board
def test_colours_rise_with_their_values(uid):
    found = json.dumps(BOARDS[uid])
    for steps in re.findall(r'"steps": (\[[^\]]*\])', found):
        values = [step["value"] for step in json.loads(steps)]
        assert values[0] is None
        assert values[1:] == sorted(values[1:])


def test_folders_are_those_that_are_provisioned():
    assert {provider["folderUid"] for provider in PROVIDERS} == set(FOLDERS.values())
    for provider in PROVIDERS:
        assert provider["allowUiUpdates"] is False
        assert provider["options"]["path"] == f"/var/lib/grafana/dashboards/{provider['folderUid']}"


def test_data_sources_have_uids_and_no_secret_of_theirs_is_written_down():
    assert {source["uid"] for source in SOURCES} == {"prometheus", "timescaledb", "alertmanager", "loki", "jaeger"}
    assert all(source["editable"] is False for source in SOURCES)
    (timescaledb,) = (source for source in SOURCES if source["uid"] == "timescaledb")
    assert timescaledb["user"] == "brigade_grafana"
    assert re.fullmatch(r"\$\{\w+\}", timescaledb["secureJsonData"]["password"])
    assert timescaledb["jsonData"]["timescaledb"] is True


def test_the_variables_of_the_environment_are_documented():
    text = (PROVISIONING / "datasources" / "brigade.yaml").read_text()
    page = (REPOSITORY / "docs" / "grafana.md").read_text()
    assert [name for name in set(re.findall(r"\$\{(BRIGADE_\w+)\}", text)) if f"`{name}`" not in page] == []
