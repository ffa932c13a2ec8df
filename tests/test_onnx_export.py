"""An encoder as one ONNX file: any picture in, the embedding out, as the encoder gives it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import picture, write_toy_encoder
from onnx import TensorProto, helper, version_converter
from typer.testing import CliRunner

from siamese_search import Encoder
from siamese_search.cli.app import app
from siamese_search.embedding.record import shipped
from siamese_search.errors import EncoderError, ImageError
from siamese_search.importing.onnx_rendering import Steps, rendered
from siamese_search.importing.portable import portable
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.render import prepare

# None so large that Pillow halves it first, which is not exact.
SIZES = ((1, 1), (2, 90), (40, 60), (120, 120), (140, 91))
WAYS = [
    Preprocessing(32, 32),
    Preprocessing(32, 24, crop_fraction=1.0),
    Preprocessing(32, 32, resize="squash", interpolation="bicubic"),
    Preprocessing(28, 32, resize="squash", interpolation="lanczos"),
    Preprocessing(32, 32, resize="squash", interpolation="box", channels=1),
    Preprocessing(32, 24, resize="pad"),
    Preprocessing(24, 32, resize="pad", interpolation="bicubic"),
]


def session_of(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def renderer(how: Preprocessing) -> Any:
    """A session that gives the pixels of a picture."""
    steps = Steps("s")
    last = helper.make_node("Identity", [rendered(steps, "image", how).name], ["pixels"])
    graph = helper.make_graph(
        [*steps.nodes, last],
        "rendering",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["h", "w", 3])],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, None)],
        steps.constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return session_of(made.SerializeToString())


def photo(number: int, height: int, width: int) -> np.ndarray[Any, Any]:
    return np.asarray(picture(number, noise=12).resize((width, height)))


@pytest.mark.parametrize("how", WAYS)
def test_pictures_are_rendered_as_pillow_does(how: Preprocessing) -> None:
    session = renderer(how)
    for number, (height, width) in enumerate(SIZES):
        shown = photo(number, height, width)
        (found,) = session.run(None, {"image": shown})
        apart = np.abs(found[0].astype(int) - prepare(shown, how))
        assert apart.max() <= 3, (height, width)
        assert apart.mean() <= 0.5, (height, width)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("box", [(30, 40, 60, 55), (0, 0, 5, 70), (0, 0, 0, 0)])
def test_what_is_drawn_is_trimmed_as_pillow_does(
    box: tuple[int, int, int, int], dark: bool, channels: int
) -> None:
    left, top, right, bottom = box
    page = np.full((100, 80, 3), 250, np.uint8)
    page[top:bottom, left:right] = [30, 60, 20]
    page = 255 - page if dark else page
    how = Preprocessing(24, 24, channels, resize="trim", crop_fraction=1.0)  # type: ignore[arg-type]
    (found,) = renderer(how).run(None, {"image": page})
    assert np.abs(found[0].astype(int) - prepare(page, how)).max() <= 2


@pytest.mark.parametrize("name", shipped())
def test_shipped_encoders_agree_with_their_files(name: str) -> None:
    encoder = Encoder.open(name, "cpu")
    made = portable(encoder)
    assert min(made.cosines) >= 0.995
    session = session_of(made.content)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[2]) == ("image", "tensor(uint8)", 3)
    assert session.get_outputs()[0].name == "embedding"
    (embedding,) = session.run(None, {"image": photo(3, 120, 200)})
    assert embedding.shape == (encoder.dimension,)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert session.get_modelmeta().custom_metadata_map == {
        "name": name,
        "fingerprint": encoder.fingerprint,
        "dimension": str(encoder.dimension),
        "threshold": str(encoder.threshold),
        "licence": "Apache-2.0",
        "input": "one picture, uint8 (height, width, 3), RGB, upright, of any size",
        "output": "its embedding, float32 (dimension,), of unit length: compare by dot products",
    }


def test_an_encoder_of_another_operator_set_is_exported(tmp_path: Path) -> None:
    toy = Encoder.open(write_toy_encoder(tmp_path / "toy"), "cpu")
    graph = onnx.load(toy.folder / "encoder.onnx")
    older = version_converter.convert_version(graph, 14).SerializeToString()
    folder = write_toy_encoder(
        tmp_path / "older", onnx=older, training={"imported": {"licence": "mit"}}
    )
    made = portable(Encoder.open(folder, "cpu"))
    assert min(made.cosines) >= 0.999
    assert session_of(made.content).get_modelmeta().custom_metadata_map["licence"] == "mit"


def test_a_file_that_would_be_another_encoder_is_not_written(tmp_path: Path) -> None:
    def edge(size: int) -> bytes:
        """What magnifies the least difference between pixels."""
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
                helper.make_node("Sin", ["real"], ["waves"]),
                helper.make_node("Flatten", ["waves"], ["flat"]),
                helper.make_node("LpNormalization", ["flat"], ["embedding"], axis=1, p=2),
            ],
            "edge",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3 * size**2])],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        content: bytes = made.SerializeToString()
        return content

    folder = write_toy_encoder(
        tmp_path / "edge",
        onnx=edge(16),
        dimension=3 * 16**2,
        preprocessing=replace(Preprocessing(16, 16), interpolation="bicubic"),
    )
    with pytest.raises(EncoderError, match="makes another embedding"):
        portable(Encoder.open(folder, "cpu"))


def test_the_command_checks_on_pictures_of_ones_own(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        picture(seed).resize((90, 70)).save(tmp_path / "photos" / f"{seed}.jpg", quality=95)
    (tmp_path / "photos" / "bad.png").write_bytes(b"nothing")
    out = tmp_path / "toy.onnx"
    line = ["encoder", "export", str(folder), "--to", "onnx", "--out", str(out)]
    said = CliRunner().invoke(app, [*line, "--reference", str(tmp_path / "photos")])
    assert said.exit_code == 0, said.output
    assert "cosine to the encoder on 3 pictures:" in said.output
    assert "bad.png" in said.output
    assert out.read_bytes()


def test_a_picture_that_cannot_be_read_is_named(toy: Encoder, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad\.png: "):
        portable(toy, [tmp_path / "bad.png"])


def test_the_docs_program_compares_two_pictures(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "howto" / "onnx.md"
    code, *_ = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    encoder = Encoder.open("general-2", "cpu")
    (tmp_path / "general-2.onnx").write_bytes(portable(encoder).content)
    for name, seed in (("one.jpg", 1), ("other.jpg", 2)):
        picture(seed).resize((300, 200)).save(tmp_path / name, quality=95)
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    one, other = encoder.embed([tmp_path / "one.jpg", tmp_path / "other.jpg"])
    assert float(said[0]) == pytest.approx(float(one @ other), abs=0.02)
    assert float(said[1]) == encoder.threshold
