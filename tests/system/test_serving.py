"""What the Dockerfile and the compose file promise, as far as it can be told without Docker."""

import re
import tomllib

import yaml
from paths import ROOT

from core.server.limits import FOR_STRANGERS

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICE = COMPOSE["services"]["sentitrace"]


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def test_every_instruction_is_one_of_dockers():
    known = {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "VOLUME", "EXPOSE"}
    assert {name for name, _ in instructions()} <= known | {"HEALTHCHECK", "CMD"}


def test_what_is_copied_is_there_and_is_sent():
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in sent, source


def test_the_server_does_not_watch_the_thousands_of_files_of_its_environment():
    options = tomllib.loads((ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
    assert options["server"]["fileWatcherType"] == "none"


def test_everything_that_runs_is_copied():
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied >= {"app.py", "core", "pages", "assets", "docs", ".streamlit/config.toml"}


def test_the_process_is_no_root_user_and_can_write_to_the_volume_alone():
    assert [rest for name, rest in instructions() if name == "USER"] == ["sentitrace"]
    assert SERVICE["read_only"] is True
    assert SERVICE["volumes"] == ["cache:/data"]
    assert "SENTITRACE_HOME=/data" in DOCKERFILE
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICE["security_opt"]


def test_it_is_public_by_default_and_speaks_to_this_machine_alone():
    assert "SENTITRACE_PUBLIC=1" in DOCKERFILE
    assert f"MAX_UPLOAD_SIZE={FOR_STRANGERS['upload_megabytes']}" in DOCKERFILE
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])


def test_its_start_asks_no_web_service_for_this_machines_address():
    assert "STREAMLIT_BROWSER_SERVER_ADDRESS=" in DOCKERFILE


def test_no_progress_bars_are_drawn_between_the_lines_of_its_log():
    assert "HF_HUB_DISABLE_PROGRESS_BARS=1" in DOCKERFILE


def test_it_stops_at_once_while_it_sets_up():
    # A shell that is process 1 ignores SIGTERM, and only a kill ends it.
    assert SERVICE["init"] is True


def test_its_health_is_asked_for():
    (check,) = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    assert "/_stcore/health" in check
