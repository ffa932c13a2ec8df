"""Which encoders there are, and what is told of one: `encoder list` and `encoder info`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import write_toy_encoder
from shell import Shell

from siamese_search import Encoder
from siamese_search.embedding.about import about
from siamese_search.embedding.rate import measured_rate
from siamese_search.embedding.record import shipped


def test_the_list_has_shipped_encoders_and_those_below_the_current_folder(shell: Shell) -> None:
    write_toy_encoder(shell.folder / "mine")
    write_toy_encoder(shell.folder / "runs" / "deep" / "er", pool=8)
    write_toy_encoder(shell.folder / ".hidden" / "no")
    write_toy_encoder(shell.folder / "a" / "b" / "c" / "too-deep")
    found = shell.json("encoder", "list")
    assert [one["encoder"] for one in found] == [*shipped(), "mine", "runs/deep/er"]
    assert {one["source"] for one in found[:-2]} == {"shipped"}
    assert found[-1] | {"fingerprint": "", "bytes": 0} == {
        "encoder": "runs/deep/er", "source": "folder", "name": "er", "dimension": 13,
        "width": 16, "height": 16, "channels": 3, "bytes": 0, "threshold": 0.9,
        "calibrated": True, "purpose": None, "origin": "not noted", "fingerprint": "",
    }  # fmt: skip
    assert all(one["purpose"] for one in found[:-2])
    header, *rows = shell("encoder", "list").stdout.splitlines()
    assert header.split()[:3] == ["name", "dimension", "input"]
    assert rows[-1].split()[:5] == ["runs/deep/er", "13", "16", "×", "16"]
    # Each of them can be named so.
    for row in rows:
        assert shell("encoder", "info", row.split()[0]).stdout


def test_folders_are_looked_through_where_they_are_named(shell: Shell) -> None:
    write_toy_encoder(shell.folder / "mine")
    write_toy_encoder(shell.folder / "other" / "one")
    found = shell.json("encoder", "list", "other")
    assert [one["encoder"] for one in found if one["source"] == "folder"] == ["other/one"]
    assert "nowhere is no folder" in shell("encoder", "list", "nowhere", code=2).stderr


def test_an_encoder_that_cannot_be_opened_is_named(shell: Shell) -> None:
    folder = write_toy_encoder(shell.folder / "bro\nken")
    (folder / "encoder.json").write_text("{}")
    ran = shell("encoder", "list", code=1)
    assert "rejected: bro\\nken: " in ran.stderr
    assert "general-2" in ran.stdout


def test_what_is_known_of_an_encoder_is_shown(shell: Shell) -> None:
    imported = {
        "source": "timm/vit", "licence": "MIT", "url": "there\x1b[2J", "sha256": "0" * 64,
    }  # fmt: skip
    folder = write_toy_encoder(
        shell.folder / "mine",
        training={"imported": imported},
        weights={"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float32)},
        calibration={"fitted": False, "slope": 20.0, "offset": -16.0},
        threshold=1.0,
    )
    (found,) = shell.json("encoder", "info", "mine")
    assert found["parameters"] == 22
    assert found["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert (found["origin"], found["licence"]) == ("imported from timm/vit", "MIT")
    assert found["imported"] == imported
    assert (found["calibrated"], found["ok"], found["rate"]) == (False, True, None)
    assert found["fingerprint"] == Encoder.open(folder).fingerprint
    text = shell("encoder", "info", "mine").stdout
    assert "threshold   not known: it gives no names until the gallery is calibrated" in text
    assert found["threshold"] is None
    assert "there\\x1b[2J" in text
    assert "16 × 16 pixels, colours; the middle of the picture, bilinear" in text
    listed = shell("encoder", "list")
    assert "imported from timm/vit" in listed.stdout
    assert "those without a threshold" in listed.stderr


def test_a_trained_encoder_tells_what_it_has_learned_from(tmp_path: Path) -> None:
    training = {"settings": {"start": "general-2"}, "data": {"classes": 1, "pictures": 70}}
    encoder = Encoder.open(write_toy_encoder(tmp_path / "mine", training=training))
    told = about(encoder.folder, encoder.record)
    assert told.origin == "trained from general-2"
    assert told.trained_on == "70 pictures of 1 class"
    strange = {"settings": ["x"], "data": {"classes": "?", "pictures": 70}, "imported": "no"}
    encoder = Encoder.open(write_toy_encoder(tmp_path / "odd", training=strange))
    told = about(encoder.folder, encoder.record)
    assert (told.origin, told.trained_on, told.imported) == ("not noted", None, None)


def test_damaged_files_are_named_and_the_exit_code_says_so(shell: Shell) -> None:
    folder = write_toy_encoder(shell.folder / "mine")
    (folder / "weights.safetensors").write_bytes(b"\xff" * 40)
    ran = shell("encoder", "info", "mine", "--measure", code=1)
    assert "weights.safetensors is damaged" in ran.stdout
    assert "images/s" not in ran.stdout
    (found,) = shell.json("encoder", "info", "mine", code=1)
    assert (found["ok"], found["parameters"]) == (False, None)
    assert "is neither a folder nor a shipped name" in shell("encoder", "info", "x", code=2).stderr


def test_the_rate_is_measured_where_it_is_asked_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_search.embedding import rate

    monkeypatch.setattr(rate, "SECONDS", 0.01)
    (found,) = shell.json("encoder", "info", shell.encoder, "--measure", "--device", "cpu")
    assert found["rate"].keys() == {"mean", "error", "device"}
    assert found["rate"]["device"] == "cpu"
    again = measured_rate(Encoder.open(shell.encoder, "cpu"))
    assert again.mean > 0
    assert "the network alone" in shell("encoder", "info", shell.encoder, "--measure").stdout


def test_a_command_of_the_group_by_another_name_says_what_to_type(shell: Shell) -> None:
    assert "try `siasearch encoder list`" in shell("encoder", "ls", code=2).stderr
    assert "did you mean `siasearch encoder compare`" in shell("encoder", "compar", code=2).stderr
    assert "`siasearch encoder --help` lists them" in shell("encoder", "xyzzy", code=2).stderr
    assert "try `siasearch encoder list`" in shell("encoders", code=2).stderr
