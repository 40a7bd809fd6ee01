"""`brigade secrets create`: each part finds its settings in its folder, and nobody else's."""

import json
import os
import stat

import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from gateway.settings import GatewaySettings
from observability.settings import load
from pipeline.passwords import Addresses, files
from pipeline.settings import (
    BridgeSettings,
    BrokerSettings,
    CommandSettings,
    InstallBrokerSettings,
    InstallDatabaseSettings,
    MaintainSettings,
    WorkerSettings,
)
from tests.pipeline.bridge_servers import OwnServer, own_instance
from users.settings import BrokerSettings as UsersCommandSettings

READERS = {
    "bridge": [BridgeSettings],
    "worker": [WorkerSettings],
    "maintain": [MaintainSettings],
    "broker": [BrokerSettings],
    "gateway": [GatewaySettings],
    "users": [UsersCommandSettings],
    "command": [CommandSettings, UsersCommandSettings],
    "install": [InstallDatabaseSettings, InstallBrokerSettings],
}
FOLDERS = list(files(str, Addresses(database="d:1", users_database="u:1", redis="r:1")))


@pytest.fixture
def create(brigade, tmp_path):
    """As who runs the tests, who need not be root."""
    ourselves = [word for name in FOLDERS for word in ("--owner", f"{name}={os.getuid()}:{os.getgid()}")]
    return lambda *words: brigade("secrets", "create", str(tmp_path / "secrets"), *ourselves, *words)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "secrets"


def tree(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_every_part_finds_its_settings(create, folder, monkeypatch):
    done = create()
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(tree(folder))
    monkeypatch.setenv("BRIGADE_USERS_MAIL_URL", "file:///mails")
    for reader, parts in READERS.items():
        monkeypatch.setenv("BRIGADE_SECRETS", str(folder / reader))
        for part in parts:
            load(part)


def test_a_password_is_in_the_folders_that_need_it(create, folder):
    create("--database", "db:1", "--users-database", "people:2", "--redis", "cache:3")
    texts = tree(folder)
    worker = conninfo_to_dict(texts["worker/BRIGADE_DATABASE_URL"])
    assert (worker["host"], worker["port"], worker["user"]) == ("db", "1", "brigade_worker")
    assert worker["password"] == texts["install/BRIGADE_INSTALL_PASSWORD_WORKER"]
    people = conninfo_to_dict(texts["users/BRIGADE_USERS_DATABASE_URL"])
    assert (people["host"], people["dbname"]) == ("people", "brigade_users")
    assert texts["users/BRIGADE_USERS_INTERNAL_SECRET"] == texts["gateway/BRIGADE_GATEWAY_INTERNAL_SECRET"]
    assert texts["bridge/BRIGADE_MQTT_PASSWORD"] == texts["install/BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE"]
    assert texts["exporters/postgres_password"] == texts["install/BRIGADE_INSTALL_PASSWORD_MONITOR"]
    assert "@cache:3/0" in texts["gateway/BRIGADE_GATEWAY_REDIS_URL"]
    root = conninfo_to_dict(texts["install/BRIGADE_INSTALL_DATABASE_URL"])
    assert root["password"] == texts["postgres/POSTGRES_PASSWORD"]
    for part in ("worker", "gateway", "bridge", "broker", "grafana", "exporters"):
        mine = "".join(text for name, text in texts.items() if name.startswith(f"{part}/"))
        assert texts["postgres/POSTGRES_PASSWORD"] not in mine
        assert texts["install/BRIGADE_INSTALL_PASSWORD_OWNER"] not in mine


def test_again_changes_nothing_and_a_deleted_password_changes_what_is_made_of_it(create, folder):
    create()
    before = tree(folder)
    again = create()
    assert (again.returncode, again.stdout, tree(folder)) == (0, "", before)
    (folder / "passwords/mqtt-bridge").unlink()
    changed = ["bridge/BRIGADE_MQTT_PASSWORD", "install/BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE", "passwords/mqtt-bridge"]
    assert sorted(create().stdout.splitlines()) == changed
    assert [name for name, text in sorted(tree(folder).items()) if before[name] != text] == changed


def test_a_password_of_ones_own_is_taken_as_it_is(create, folder):
    (folder / "passwords").mkdir(parents=True)
    (folder / "passwords/database-worker").write_text("p@ss/w:rd %#?\n")
    assert create().returncode == 0
    texts = tree(folder)
    assert texts["install/BRIGADE_INSTALL_PASSWORD_WORKER"] == "p@ss/w:rd %#?"
    assert conninfo_to_dict(texts["worker/BRIGADE_DATABASE_URL"])["password"] == "p@ss/w:rd %#?"


@pytest.mark.parametrize("text", ["", "\n", "short", "two\nlines here"])
def test_a_password_that_is_none_is_refused_by_its_file(create, folder, text):
    (folder / "passwords").mkdir(parents=True)
    (folder / "passwords/postgres").write_text(text)
    done = create()
    assert done.returncode == 1
    assert done.stderr.startswith(f"brigade: {folder}/passwords/postgres: a password has at least 8")


def test_files_are_for_their_reader_alone(create, folder):
    (folder / "worker").mkdir(parents=True, mode=0o755)  # as Docker makes the source of a mount
    create()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o400}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_dir()} == {0o700}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_belong_to_who_reads_them(brigade, folder):
    (folder / "worker").mkdir(parents=True)
    assert (
        brigade("secrets", "create", str(folder), "--owner", "redis=999:1000", "--owner", "grafana=472").returncode == 0
    )

    def owners(reader):
        return {(path.stat().st_uid, path.stat().st_gid) for path in (folder / reader, *(folder / reader).iterdir())}

    assert owners("worker") == owners("install") == {(10001, 10001)}
    assert (owners("redis"), owners("grafana")) == ({(999, 1000)}, {(472, 472)})
    assert owners("passwords") == {(0, 0)}


@pytest.mark.parametrize(("word", "told"), [("nobody=1", "no such reader: nobody"), ("redis", "READER=UID")])
def test_a_wrong_owner_is_told(brigade, folder, word, told):
    done = brigade("secrets", "create", str(folder), "--owner", word)
    assert done.returncode == 1
    assert told in done.stderr
    assert not folder.exists()


def test_a_folder_that_cannot_be_is_told(brigade, tmp_path):
    (tmp_path / "file").touch()
    done = brigade("secrets", "create", str(tmp_path / "file"))
    assert done.returncode == 1
    assert f"{tmp_path}/file" in done.stderr


def test_redis_lets_in_who_it_should(create, folder, tmp_path):
    create()
    texts = tree(folder)
    instance = own_instance(tmp_path / "instance")
    (instance.config / "users.acl").write_text(texts["redis/users.acl"])
    with (instance.config / "redis.conf").open("a") as conf:
        conf.write("\naclfile /config/users.acl\n")
    own = OwnServer("redis", instance)
    own.start()
    at = {"host": "127.0.0.1", "port": instance.ports["redis"]}
    try:
        assert redis.Redis(**at).ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            redis.Redis(**at).info()
        password = texts["gateway/BRIGADE_GATEWAY_REDIS_URL"].split(":")[2].split("@")[0]
        brigade = redis.Redis(**at, username="brigade", password=password)
        assert brigade.set("x", 1)
        assert brigade.eval("return redis.call('get', KEYS[1])", 1, "x") == b"1"
        (word,) = json.loads(texts["exporters/redis.json"]).values()
        exporter = redis.Redis(**at, username="exporter", password=word)
        assert exporter.info()
        with pytest.raises(redis.exceptions.NoPermissionError):
            exporter.get("x")
    finally:
        own.end()
