"""A setting may be a file named like its variable, for each of the services."""

import base64
import subprocess
import sys

import pytest
from pydantic import Field, SecretStr

from gateway.settings import GatewaySettings
from observability.settings import Settings, load
from pipeline.settings import KafkaSettings, MqttSettings
from pipeline.settings import load as load_for_pipeline
from users.settings import UsersSettings


class Some(Settings):
    number: int = Field(1, description="Some number.")
    password: SecretStr = Field(description="Some password.")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIGADE_SECRETS", str(tmp_path))
    return tmp_path


def refused(settings, capsys):
    with pytest.raises(SystemExit) as stopped:
        load(settings)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "value"), [("hush", "hush"), ("hush\n", "hush"), ("hush\r\n", "hush"), (" a \n\n", " a \n"), ("", "")]
)
def test_a_file_is_a_setting_without_the_newline_at_its_end(folder, written, value):
    (folder / "BRIGADE_PASSWORD").write_bytes(written.encode())
    assert load(Some).password.get_secret_value() == value


def test_the_environment_wins(folder, monkeypatch):
    (folder / "BRIGADE_PASSWORD").write_text("from the file")
    (folder / "BRIGADE_NUMBER").write_text("2")
    monkeypatch.setenv("BRIGADE_PASSWORD", "from the environment")
    assert (load(Some).password.get_secret_value(), load(Some).number) == ("from the environment", 2)


def test_every_service_reads_them(folder):
    sealing = base64.b64encode(b"k" * 32).decode()
    for name, text in {
        "BRIGADE_MQTT_PASSWORD": "m",
        "BRIGADE_LOG_LEVEL": "ERROR",
        "BRIGADE_GATEWAY_INTERNAL_SECRET": "i" * 32,
        "BRIGADE_USERS_INTERNAL_SECRET": "i" * 32,
        "BRIGADE_USERS_SECRET": sealing,
        "BRIGADE_USERS_MQTT_ADMIN_PASSWORD": "a",
        "BRIGADE_USERS_MAIL_URL": "file:///mails",
    }.items():
        (folder / name).write_text(f"{text}\n")
    pipeline, gateway, users = load_for_pipeline(MqttSettings), load(GatewaySettings), load(UsersSettings)
    assert {part.log_level for part in (pipeline, gateway, users)} == {"ERROR"}
    assert gateway.internal_secret == users.internal_secret == SecretStr("i" * 32)
    assert (pipeline.mqtt_password, users.secret) == (SecretStr("m"), SecretStr(sealing))


def test_links_as_kubernetes_makes_them_are_followed_and_other_files_are_left_alone(folder):
    version = folder / "..2026_11_25"
    version.mkdir()
    (version / "BRIGADE_PASSWORD").write_text("hush")
    (folder / "..data").symlink_to(version.name)
    (folder / "BRIGADE_PASSWORD").symlink_to("..data/BRIGADE_PASSWORD")
    (folder / "notes").write_bytes(b"\xff")
    assert load(Some).password.get_secret_value() == "hush"


def test_a_folder_that_is_not_there_has_no_files(folder, monkeypatch, capsys):
    monkeypatch.setenv("BRIGADE_SECRETS", str(folder / "none"))
    assert refused(Some, capsys).startswith("BRIGADE_PASSWORD: must be set, or be a file of this name in the folder")


def test_without_a_folder_none_is_read(folder, monkeypatch):
    (folder / "BRIGADE_NUMBER").write_text("2")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BRIGADE_PASSWORD", "hush")
    monkeypatch.setenv("BRIGADE_SECRETS", "")
    assert load(Some).number == 1
    monkeypatch.delenv("BRIGADE_SECRETS")
    assert load(Some).number == 1


def test_a_wrong_value_is_told_by_its_file(folder, monkeypatch, capsys):
    monkeypatch.setenv("BRIGADE_PASSWORD", "hush")
    (folder / "BRIGADE_NUMBER").write_text("two")
    assert refused(Some, capsys).startswith(f"{folder}/BRIGADE_NUMBER=two: ")
    monkeypatch.setenv("BRIGADE_NUMBER", "three")
    assert refused(Some, capsys).startswith("BRIGADE_NUMBER=three: ")


def test_a_wrong_secret_is_told_without_it(folder, capsys):
    (folder / "BRIGADE_GATEWAY_INTERNAL_SECRET").write_text("hush")
    told = refused(GatewaySettings, capsys)
    assert told.startswith(f"{folder}/BRIGADE_GATEWAY_INTERNAL_SECRET: must have")
    assert "hush" not in told


def test_a_file_that_cannot_be_read_is_told_by_its_name(folder, capsys):
    (folder / "BRIGADE_PASSWORD").mkdir()  # what Docker makes of a mount whose source is missing
    assert refused(Some, capsys).startswith(f"{folder}/BRIGADE_PASSWORD: Is a directory")
    (folder / "BRIGADE_PASSWORD").rmdir()
    (folder / "BRIGADE_PASSWORD").write_bytes(b"\xff\xfe")
    assert refused(Some, capsys).startswith(f"{folder}/BRIGADE_PASSWORD: not UTF-8")


def test_a_file_of_somebody_else_is_told_by_its_name(folder):
    """Without the right to read everything, which root has."""
    (folder / "BRIGADE_NUMBER").write_text("2")
    (folder / "BRIGADE_NUMBER").chmod(0)
    code = "from pipeline.settings import KafkaSettings, load; load(KafkaSettings)"
    ordinary = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run([*ordinary, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{folder}/BRIGADE_NUMBER: Permission denied")


def test_a_folder_that_is_a_file_is_told(folder, monkeypatch, capsys):
    (folder / "file").touch()
    monkeypatch.setenv("BRIGADE_SECRETS", str(folder / "file"))
    assert refused(Some, capsys).startswith(f"{folder}/file, which BRIGADE_SECRETS names: Not a directory")


def test_a_misspelt_file_is_told(folder, capsys):
    (folder / "BRIGADE_PARTITION").write_text("3")
    assert load_for_pipeline(KafkaSettings).partitions == 12
    assert "did you mean BRIGADE_PARTITIONS?" in capsys.readouterr().err
