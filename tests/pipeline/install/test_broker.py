"""`brigade install broker`: the file it writes, and what a real Mosquitto makes of it."""

import json
import os
import secrets
import stat

import pytest

from pipeline.install.broker import ANY_DEVICE, BRIDGE, MONITOR, ROLES, USERS
from pipeline.mqtt import Client, RefusedError
from tests.pipeline.bridge_servers import OwnMosquitto
from users.broker import Account, Address, Broker

VARIABLES = {
    "BRIGADE_INSTALL_MQTT_PASSWORD_USERS": USERS,
    "BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE": BRIDGE,
    "BRIGADE_INSTALL_MQTT_PASSWORD_MONITOR": MONITOR,
}


@pytest.fixture
def passwords():
    return {variable: secrets.token_hex(8) for variable in VARIABLES}


def names(file):
    document = json.loads(file.read_text())
    return {client["username"] for client in document["clients"]}, {role["rolename"] for role in document["roles"]}


def test_the_accounts_are_written_for_the_broker_alone_and_once(brigade, tmp_path, passwords):
    file = tmp_path / "accounts.json"
    done = brigade("install", "broker", "--file", str(file), **passwords)
    assert done.returncode == 0, done.stderr
    assert names(file) == (set(VARIABLES.values()), set(VARIABLES.values()))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [word for word in passwords.values() if word in file.read_text() + done.stdout]
    before = file.read_text()
    again = brigade("install", "broker", "--file", str(file), **passwords)
    assert (again.returncode, again.stdout, file.read_text()) == (0, "", before)


def test_who_may_be_any_device_is_there_only_if_asked_for(brigade, tmp_path, passwords):
    file = tmp_path / "accounts.json"
    asked = {"BRIGADE_INSTALL_MQTT_PASSWORD_ANY_DEVICE": "everything"}
    assert brigade("install", "broker", "--file", str(file), **passwords, **asked).returncode == 0
    assert ANY_DEVICE in names(file)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_gives_the_file_to_whom_the_folder_belongs(brigade, tmp_path, passwords):
    os.chown(tmp_path, 1883, 1884)
    file = tmp_path / "accounts.json"
    assert brigade("install", "broker", "--file", str(file), **passwords).returncode == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (1883, 1884)


def test_what_an_account_may_do_is_what_this_version_says(brigade, tmp_path, passwords):
    file = tmp_path / "accounts.json"
    brigade("install", "broker", "--file", str(file), **passwords)
    older = json.loads(file.read_text())
    older["roles"][1]["acls"].pop()
    older["roles"].pop(0)
    file.write_text(json.dumps(older))
    done = brigade("install", "broker", "--file", str(file), **passwords)
    assert done.stdout == f"role {USERS}: what it may do is set\nrole {BRIDGE}: what it may do is set\n"
    roles = {role["rolename"]: role["acls"] for role in json.loads(file.read_text())["roles"]}
    assert {role: {(one["acltype"], one["topic"]) for one in acls} for role, acls in roles.items()} == {
        role: set(ROLES[role]) for role in VARIABLES.values()
    }


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"roles": [{}], "clients": []}', "\x00"])
def test_a_damaged_file_is_told_and_left_as_it_is(brigade, tmp_path, passwords, text):
    file = tmp_path / "accounts.json"
    file.write_text(text)
    done = brigade("install", "broker", "--file", str(file), **passwords)
    assert done.returncode == 1
    assert done.stderr.startswith(f"brigade: {file} is not what Mosquitto's dynamic security writes")
    assert file.read_text() == text


def test_a_folder_that_is_not_there_is_told(brigade, tmp_path, passwords):
    done = brigade("install", "broker", "--file", str(tmp_path / "none" / "accounts.json"), **passwords)
    assert done.returncode == 1
    assert "none/accounts" in done.stderr
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("value", [None, "short"])
def test_a_password_that_is_missing_or_short_is_told(brigade, tmp_path, passwords, variable, value):
    wrong = {name: text for name, text in passwords.items() if name != variable}
    wrong |= {} if value is None else {variable: value}
    done = brigade("install", "broker", "--file", str(tmp_path / "accounts.json"), **wrong)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{variable}: ")


async def test_mosquitto_takes_another_password_and_keeps_its_devices(brigade, tmp_path, passwords):
    own = OwnMosquitto(tmp_path)
    file = own.instance.data("mosquitto") / "accounts.json"

    async def may(account, password):
        client_id = account.replace("/", "-")  # a device's is its name
        options = {"user": account, "password": password, "receive": lambda _messages: None}
        try:
            async with Client("127.0.0.1", own.port, client_id, **options):
                return True
        except RefusedError:
            return False

    assert brigade("install", "broker", "--file", str(file), **passwords).returncode == 0
    own.start()
    try:
        for variable, account in VARIABLES.items():
            assert await may(account, passwords[variable])
        admin = Address("127.0.0.1", own.port, USERS, passwords["BRIGADE_INSTALL_MQTT_PASSWORD_USERS"])
        async with Broker(admin, seconds=10) as broker:
            await broker.put([Account("fridge-1", "seoul", "a password")])
        own.end()
        unchanged = brigade("install", "broker", "--file", str(file), **passwords)
        assert (unchanged.returncode, unchanged.stdout) == (0, ""), "also after Mosquitto wrote it"
        other = passwords | {"BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE": "another one"}
        done = brigade("install", "broker", "--file", str(file), **other)
        assert done.stdout == f"account {BRIDGE}: its password is changed\n"
        own.start()
        assert await may(BRIDGE, "another one")
        assert not await may(BRIDGE, passwords["BRIGADE_INSTALL_MQTT_PASSWORD_BRIDGE"])
        assert await may("fridge-1", "a password")
        assert await may(MONITOR, passwords["BRIGADE_INSTALL_MQTT_PASSWORD_MONITOR"])
    finally:
        own.end()
