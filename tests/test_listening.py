"""What ``serve`` says before it listens."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from shell import Shell

from siamese_search.cli.listening import own_address


@pytest.fixture
def shell(tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """In which no server runs."""
    server = SimpleNamespace(startup=None, run=lambda: None)
    monkeypatch.setattr(uvicorn, "Config", lambda *_, **__: None)
    monkeypatch.setattr(uvicorn, "Server", lambda config: server)
    shell = Shell(tmp_path, toy_folder)
    token = tmp_path / "token"
    token.write_text("a-secret-of-many-characters")
    token.chmod(0o600)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").touch()
    shell("add", "a", "--encoder", shell.encoder, code=1)  # makes the gallery
    return shell


def test_a_port_in_use_is_a_line(shell: Shell) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = shell("serve", "--decoding", "here", "--port", port, code=2).stderr
    assert said == f"error: port {port} is in use: choose another with --port\n"
    said = shell(
        "serve", "--decoding", "here", "--host", "192.0.2.1", "--token-file", "token", code=2
    ).stderr
    assert said.startswith("error: cannot listen on 192.0.2.1, port 8321: ")


def test_a_token_that_others_can_read_is_warned_of(shell: Shell) -> None:
    assert shell("serve", "--decoding", "here", "--port", "0", "--token-file", "token").stderr == ""
    (shell.folder / "token").chmod(0o640)
    said = shell("serve", "--decoding", "here", "--port", "0", "--token-file", "token").stderr
    assert said == "warning: others can read token: `chmod 600 token`\n"


def test_what_to_allow_is_said(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "192.0.2.7"
    monkeypatch.setattr("siamese_search.cli.serve.own_address", lambda host: own)
    everywhere = (
        "serve",
        "--decoding",
        "here",
        "--port",
        "0",
        "--host",
        "0.0.0.0",
        "--token-file",
        "token",
    )
    assert f"it needs `--allow {own}`" in shell(*everywhere).stderr
    assert shell(*everywhere, "--allow", own).stderr == ""
    assert own_address("127.0.0.1") is None or own_address("0.0.0.0") != "0.0.0.0"
