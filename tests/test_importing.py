"""Importing: networks from elsewhere as encoders, on tiny versions with random weights."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import safetensors.torch  # noqa: E402
import timm  # noqa: E402
from conftest import picture  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from huggingface_hub.errors import EntryNotFoundError  # noqa: E402
from shell import Shell  # noqa: E402

from siamese_search import Encoder, Gallery  # noqa: E402
from siamese_search.cli import common  # noqa: E402
from siamese_search.embedding import backbones  # noqa: E402
from siamese_search.embedding.network import EmbeddingNetwork  # noqa: E402
from siamese_search.embedding.onnx_runtime import ONNXRuntime  # noqa: E402
from siamese_search.embedding.record import EncoderRecord  # noqa: E402
from siamese_search.embedding.torch_runtime import TorchRuntime  # noqa: E402
from siamese_search.errors import EncoderError, StorageError, UsageError  # noqa: E402
from siamese_search.importing import checking, hub, writing  # noqa: E402
from siamese_search.importing.files import read_tensors, weights_in  # noqa: E402
from siamese_search.importing.imported import Imported  # noqa: E402
from siamese_search.importing.measuring import measured  # noqa: E402
from siamese_search.importing.network import import_network  # noqa: E402
from siamese_search.importing.sources import source_of  # noqa: E402
from siamese_search.importing.stated import (  # noqa: E402
    Stated,
    from_open_clip,
    from_preprocessor,
    from_timm,
)
from siamese_search.importing.writing import write_imported  # noqa: E402
from siamese_search.pictures import render  # noqa: E402
from siamese_search.records import Progress  # noqa: E402
from siamese_search.training.run import train  # noqa: E402
from siamese_search.training.settings import Settings  # noqa: E402

pytestmark = pytest.mark.usefixtures("quickly_exported")

VIT = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}
# By what they stand for: timm's name, what makes it tiny, and pixels.
TINY: dict[str, tuple[str, dict[str, Any], int]] = {
    "registers": ("vit_small_patch14_reg4_dinov2", VIT, 32),
    "siglip": ("vit_base_patch16_siglip_224", VIT, 32),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 64),
    "efficientnet": ("test_efficientnet", {}, 64),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2), "img_size": 56},
        56,
    ),
}


def network(name: str, arguments: dict[str, Any], **more: Any) -> Any:
    """A network of timm with random weights, none of them as it begins."""
    torch.manual_seed(0)
    made = timm.create_model(name, pretrained=False, **arguments, **more).eval()
    with torch.no_grad():
        for values in made.parameters():
            values.add_(0.05 * torch.randn_like(values))
    return made


def save(folder: Path, made: Any, config: dict[str, Any] | None = None) -> Path:
    """A folder with the weights of a network, and a ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: values.contiguous() for key, values in made.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def saved(folder: Path, kind: str, **said: Any) -> Path:
    """A folder as timm publishes a network: one of ``TINY``."""
    name, arguments, side = TINY[kind]
    settled = timm.get_pretrained_cfg(name).to_dict() | {"input_size": [3, side, side]} | said
    for where in ("url", "hf_hub_id", "source"):
        settled.pop(where, None)
    made = network(name, arguments, num_classes=10)
    config = {"architecture": name, "model_args": arguments, "num_classes": 10}
    return save(folder, made, config | {"pretrained_cfg": settled})


def pixels(side: int, count: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def plainly(made: Any, shown: Any, mean: float | Any, std: float | Any) -> Any:
    """What a network of timm makes of pixels, by its own words: unit length."""
    images = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    with torch.inference_mode():
        given = made.forward_head(made.forward_features((images - mean) / std), pre_logits=True)
    return torch.nn.functional.normalize(given).numpy()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """One of them, for tests that need any."""
    return import_network(str(saved(tmp_path_factory.mktemp("published") / "p", "registers")))


@pytest.mark.parametrize("kind", TINY)
def test_a_network_is_imported_and_a_gallery_uses_it(
    kind: str,
    tmp_path: Path,
    pictures: Callable[..., Path],
    toy_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    quickly_exported: Any,
) -> None:
    monkeypatch.setattr(torch.onnx, "export", quickly_exported)  # as people have it
    name, arguments, side = TINY[kind]
    folder = saved(tmp_path / "published", kind)
    made = import_network(str(folder))
    assert min(made.origin["agreement"].values()) >= 0.999
    assert {"ONNX Runtime"} <= made.origin["agreement"].keys()
    write_imported(made, tmp_path / "mine")
    encoder = Encoder.open(tmp_path / "mine", "cpu")
    settled = timm.get_pretrained_cfg(name)
    expected = plainly(
        network(name, arguments, num_classes=10), pixels(side), settled.mean, settled.std
    )
    assert encoder.dimension == expected.shape[1]
    for given in (
        encoder.runtime.embed(pixels(side)),
        ONNXRuntime(encoder.folder, encoder.record).embed(pixels(side)),
    ):
        assert ((given * expected).sum(axis=1) >= 0.999).all()
    photos = pictures({"cat": 1, "dog": 1, "owl": 1})
    with Gallery.open(tmp_path / "gallery", tmp_path / "mine", "cpu") as gallery:
        gallery.enroll([photos])
        asked = gallery.identify(sorted(photos.rglob("*.png")), k=1)
        assert [answer.matches[0].identity for answer in asked] == ["cat", "dog", "owl"]
    with Gallery.open(tmp_path / "moved", toy_folder, "cpu") as gallery:
        gallery.enroll([photos])
        gallery.rebuild(tmp_path / "mine")
        assert gallery.encoder.fingerprint == encoder.fingerprint
        assert gallery.identify([picture(1)], k=1)[0].matches[0].identity == "dog"


def test_position_embeddings_are_resampled_for_another_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "published", "registers")
    made = import_network(str(folder), asked=Stated(height=48, width=64))
    assert (made.preprocessing.width, made.preprocessing.height) == (64, 48)
    # By timm itself, from the same file.
    name, arguments, _ = TINY["registers"]
    resized = timm.create_model(
        name,
        **(arguments | {"img_size": (48, 64)}),
        num_classes=10,
        pretrained=True,
        pretrained_cfg_overlay={
            "file": str(folder / "model.safetensors"),
            "input_size": (3, 32, 32),
            "num_classes": 10,
        },
    )
    kept = torch.from_numpy(made.weights["backbone.pos_embed"]).float()
    assert kept.shape[1] == 6 * 8
    torch.testing.assert_close(kept, resized.pos_embed, atol=1e-3, rtol=0)
    with pytest.raises(UsageError, match="take 48 × 48"):
        import_network(str(folder), asked=Stated(height=50, width=50))


def test_an_imported_encoder_runs_by_torch_and_can_be_trained_further(
    tmp_path: Path, pictures: Callable[..., Path], imported: Imported
) -> None:
    write_imported(imported, tmp_path / "mine")
    encoder = Encoder.open(tmp_path / "mine", "cpu")
    given = TorchRuntime(encoder.folder, encoder.record, "cpu").embed(pixels(32))
    expected = ONNXRuntime(encoder.folder, encoder.record).embed(pixels(32))
    np.testing.assert_allclose(given, expected, atol=1e-4)
    photos = pictures(dict.fromkeys("abcdef", 3))
    settings = Settings(
        start=str(tmp_path / "mine"), augmentation="none", steps=2, epoch_steps=1, classes=2,
        images=2, frozen=0.0,
    )  # fmt: skip
    report = train([photos], tmp_path / "trained", settings, device="cpu")
    assert (report.dimension, report.steps) == (32, 2)
    assert Encoder.open(tmp_path / "trained", "cpu").embed(picture(1)).shape == (1, 32)


# Folders as transformers saves them


def named_by_transformers(kind: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """A network's weights by the names that transformers gives them."""
    clip = kind != "dinov2_with_registers"
    whole = {
        "cls_token": "embeddings.class_embedding" if clip else "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embedding" + (".weight" if clip else "s"),
        "attn_pool.latent": "head.probe",
        "attn_pool.kv.weight": "head.attention.in_proj_weight",
        "attn_pool.kv.bias": "head.attention.in_proj_bias",
    }
    parts = {
        "patch_embed.proj": f"embeddings.patch_embedding{'' if clip else 's.projection'}",
        "norm_pre": "pre_layrnorm",
        "norm": "post_layernorm" if clip else "layernorm",
        "attn_pool.proj": "head.attention.out_proj",
        "attn_pool.norm": "head.layernorm",
        "attn_pool.mlp": "head.mlp",
        "attn.proj": "self_attn.out_proj" if clip else "attention.output.dense",
        "norm1": "layer_norm1" if clip else "norm1",
        "norm2": "layer_norm2" if clip else "norm2",
        "mlp": "mlp",
    }
    found = {}
    for name, values in tensors.items():
        begin, rest = "", name
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            begin = f"encoder.layer{'s' if clip else ''}.{number}."
        if rest.startswith("attn.qkv."):
            for each, one in zip(("query", "key", "value"), values.chunk(3), strict=True):
                place = f"self_attn.{each[0]}_proj" if clip else f"attention.attention.{each}"
                found[f"{begin}{place}.{rest.rpartition('.')[2]}"] = one.contiguous()
        elif name.startswith("attn_pool.q."):
            continue
        elif rest.startswith("ls"):
            found[f"{begin}layer_scale{rest[2]}.lambda1"] = values
        elif name in whole:
            joined = name.startswith("attn_pool.kv.")
            query = tensors.get(name.replace(".kv.", ".q."))
            values = torch.cat([query, values]) if joined and query is not None else values
            flat = clip and name in ("cls_token", "pos_embed")
            found[whole[name]] = values.flatten(0, -2).squeeze(0) if flat else values
        else:
            part = next(one for one in parts if rest.startswith(f"{one}."))
            found[begin + parts[part] + rest.removeprefix(part)] = values
    return found


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("dinov2_with_registers", "vit_small_patch14_reg4_dinov2", {"mlp_ratio": 2}),
        ("siglip_vision_model", "vit_base_patch16_siglip_224", {"act_layer": "gelu_tanh"}),
        ("clip", "vit_base_patch16_clip_224", {"act_layer": "quick_gelu"}),
    ],
)
def test_a_folder_of_transformers_gives_what_its_network_gives(
    kind: str, name: str, more: dict[str, Any], tmp_path: Path
) -> None:
    made = network(name, VIT | more, num_classes=0)
    tensors = dict(made.state_dict())
    if kind == "dinov2_with_registers":  # which keeps a place for the class token
        place = torch.randn(1, 1, 32)
        tensors["cls_token"] = tensors["cls_token"] - place
        tensors["pos_embed"] = torch.cat([place, tensors["pos_embed"]], dim=1)
    given = named_by_transformers(kind, tensors)
    config = {
        "model_type": kind, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8, "intermediate_size": 128, "mlp_ratio": 2,
    }  # fmt: skip
    given["classifier.weight"] = torch.zeros(3, 32)
    if kind == "clip":  # a network for texts as well
        given = {f"vision_model.{key}": values for key, values in given.items()}
        given |= {"text_model.embeddings.token_embedding.weight": torch.zeros(9, 8)}
        given |= {"logit_scale": torch.ones(())}
        config = {"model_type": "clip", "vision_config": config}
    folder = tmp_path / "published"
    folder.mkdir()
    safetensors.torch.save_file(given, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    said = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    said |= {"size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# A model\n")
    imported = import_network(str(folder))
    assert imported.origin["licence"] == "mit"
    assert imported.preprocessing.resize == "squash"
    write_imported(imported, tmp_path / "mine")
    encoder = Encoder.open(tmp_path / "mine", "cpu")
    expected = plainly(made, pixels(32), 0.5, 0.25)
    found = ONNXRuntime(encoder.folder, encoder.record).embed(pixels(32))
    assert ((found * expected).sum(axis=1) >= 0.9999).all()


# How pictures are taken


def test_what_files_say_of_pictures_is_read() -> None:
    timm_says = {
        "input_size": [3, 240, 320], "crop_pct": 0.95, "crop_mode": "squash",
        "interpolation": "bilinear", "mean": [0.5], "std": [0.25, 0.25, 0.25],
    }  # fmt: skip
    said = from_timm(timm_says, "config.json")
    assert said.preprocessing().crop_fraction == 1  # nothing is cut off
    assert said.scale(3) == ([127.5] * 3, [63.75] * 3)
    how = said.preprocessing()
    assert (how.height, how.width, how.resize, how.interpolation) == (
        240,
        320,
        "squash",
        "bilinear",
    )
    assert Stated(crop=0.5, resize="crop").over(said).preprocessing().crop_fraction == 0.5

    clip = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    said = from_preprocessor(clip | {"do_center_crop": True, "resample": 2}, "p.json")
    assert said.preprocessing().crop_fraction == pytest.approx(0.875)
    assert (said.height, said.resize, said.interpolation) == (224, "crop", "bilinear")
    said = from_preprocessor({"size": 384, "do_normalize": False}, "p.json")
    assert (said.height, said.width, said.resize) == (384, 384, "squash")
    assert said.scale(3) == ([0.0] * 3, [255.0] * 3)
    said = from_preprocessor({"size": {"shortest_edge": 224}, "crop_pct": 0.9}, "p.json")
    assert (said.width, said.resize, said.crop) == (224, "crop", 0.9)
    raw = {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [1.0] * 3}
    assert from_preprocessor(raw, "p.json").scale(3) == ([127.5] * 3, [1.0] * 3)

    open_clip = {
        "model_cfg": {"vision_cfg": {"image_size": 256}},
        "preprocess_cfg": {"mean": [0.5] * 3, "resize_mode": "longest", "interpolation": "bicubic"},
    }
    said = from_open_clip(open_clip, "o.json")
    assert (said.height, said.resize, said.mean) == (256, "pad", (127.5,) * 3)


@pytest.mark.parametrize(
    "said",
    [
        {"input_size": [3, 0, 0]}, {"input_size": "224"}, {"mean": ["a"]}, {"mean": []},
        {"crop_pct": True}, {"crop_mode": "around"}, {"interpolation": 3}, {"std": [float("nan")]},
    ],
)  # fmt: skip
def test_what_files_say_is_checked(said: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match=r"c\.json says"):
        from_timm(said, "c.json")


@pytest.mark.parametrize(
    "asked",
    [
        Stated(height=0, width=0), Stated(crop=0.0), Stated(crop=1.5), Stated(resize="trim2"),
        Stated(interpolation="nearest"), Stated(channels=4), Stated(height=5000, width=5000),
    ],
)  # fmt: skip
def test_nonsense_that_is_asked_for_is_refused(asked: Stated) -> None:
    with pytest.raises(UsageError):
        asked.preprocessing()


def test_pictures_become_what_timm_makes_of_them(tmp_path: Path) -> None:
    from timm.data import create_transform

    picture(3, noise=5).resize((300, 200)).save(tmp_path / "a.png")
    says = {"input_size": [3, 64, 64], "crop_pct": 0.8, "interpolation": "bicubic"}
    ours = render.load(str(tmp_path / "a.png"), from_timm(says, "").preprocessing())
    transform = create_transform(
        (3, 64, 64), interpolation="bicubic", crop_pct=0.8, mean=(0, 0, 0), std=(1, 1, 1)
    )
    theirs = 255 * transform(picture(3, noise=5).resize((300, 200))).permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).mean() < 3


# What is refused, and leaves nothing


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "published", "convnext")
    good = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    cases: tuple[dict[str, Any], ...] = (
        {"source": str(folder)},
        {"source": "convnext_tiny", "weights": folder / "pytorch_model.bin"},
        {"source": str(folder / "pytorch_model.bin")},
    )
    for arguments in cases:
        with pytest.raises(EncoderError, match=r"is a pickle.*save_file"):
            import_network(**arguments)
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    with pytest.raises(EncoderError, match="no safetensors file"):
        import_network(str(folder))
    (folder / "model.safetensors").write_bytes(good[:-100])
    with pytest.raises(EncoderError, match="damaged"):
        import_network(str(folder))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "published", "convnext")
    weights = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    name = next(name for name in tensors if "conv_dw" in name)
    safetensors.torch.save_file({k: v for k, v in tensors.items() if k != name}, weights)
    with pytest.raises(EncoderError, match=f"does not fit 'convnext_tiny'.*{name}"):
        import_network(str(folder))
    safetensors.torch.save_file(tensors | {name: tensors[name] * float("nan")}, weights)
    with pytest.raises(EncoderError, match=f"{name} has values that are not finite"):
        import_network(str(folder))
    with pytest.raises(EncoderError, match="does not fit 'test_vit'"):
        import_network("test_vit", weights=saved(tmp_path / "b", "siglip") / "model.safetensors")


def test_weights_in_several_files_are_read_from_beside_their_index_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "published", "convnext")
    whole, _ = read_tensors(weights_in(folder))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(tensors) // 2
    places: dict[str, str] = {}
    for number, keys in enumerate(([*tensors][:half], [*tensors][half:])):
        file = f"model-{number}.safetensors"
        safetensors.torch.save_file({key: tensors[key] for key in keys}, folder / file)
        places |= dict.fromkeys(keys, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    again, digests = read_tensors(weights_in(folder))
    assert again.keys() == whole.keys()
    assert all(bool((again[name] == whole[name]).all()) for name in whole)
    assert digests.keys() == {"model-0.safetensors", "model-1.safetensors"}
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(EncoderError, match="no files beside it"):
        import_network(str(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "no JSON object"),
        ('{"architecture": "vit_of_tomorrow"}', "does not know"),
        (
            '{"architecture": "test_vit", "model_args": {"checkpoint_path": "a.pth"}}',
            "cannot build",
        ),
        ('{"architecture": "test_vit", "model_args": {"depth": "two"}}', "cannot build"),
        ('{"architecture": "test_vit", "pretrained_cfg": 3}', "makes no sense"),
        ('{"model_type": "bert"}', "the kind 'bert'"),
        ('{"model_type": "dinov2", "use_swiglu_ffn": true}', "SwiGLU"),
        ('{"model_type": "vit", "hidden_size": -3}', "makes no sense"),
        ('{"model_type": "vit", "hidden_act": "relu6"}', "does not take"),
        ("{}", "names no network"),
    ],
)
def test_a_description_that_cannot_be_used_is_one_clear_error(
    config: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=said):
        import_network(str(tmp_path))


def test_a_source_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("vit_of_tomorrow", {}, "no network that timm knows"),
        ("test_vit.of_tomorrow", {}, "timm knows no weights"),
        ("hf-hub:a/b/c", {}, "names no repository"),
        (str(tmp_path / "a.safetensors"), {}, "name the network"),
        ("test_vit", {"weights": tmp_path / "b.safetensors"}, "no file"),
        ("test_vit", {"checkpoint_folder": tmp_path / "b"}, "no folder"),
        ("test_vit", {"weights": tmp_path, "checkpoint_folder": tmp_path}, "give one of them"),
    )
    for source, options, said in cases:
        with pytest.raises(UsageError, match=said):
            import_network(source, **options)
    with pytest.raises(EncoderError, match="has no weights"):
        import_network("test_vit", checkpoint_folder=tmp_path.parent)


def test_a_hub_that_does_not_answer_is_soon_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "PATIENCE", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        port = silent.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        for source in ("test_vit.r160_in1k", "hf-hub:nobody/nothing"):
            with pytest.raises(EncoderError, match=r"does not answer.*--checkpoint-folder DIR"):
                import_network(source)
    assert time.monotonic() - begun < 5


def test_what_a_hub_has_is_fetched_but_no_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = saved(tmp_path / "org" / "name", "registers")
    (there / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    asked: list[str] = []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append(file)
        assert revision == "main"
        if not (tmp_path / repository / file).exists():
            raise EntryNotFoundError(file)
        return str(tmp_path / repository / file)

    monkeypatch.setattr(hub, "require_hub", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = source_of("hf-hub:org/name@main", None, None)
    assert found.weights == [there / "model.safetensors"]
    assert found.origin == {
        "source": "hf-hub:org/name@main",
        "url": "https://huggingface.co/org/name",
        "licence": "cc-by-4.0",
    }
    (there / "model.safetensors").rename(there / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"no safetensors.*--weights"):
        source_of("hf-hub:org/name@main", None, None)
    assert "pytorch_model.bin" not in asked


def test_a_hub_that_is_not_asked_is_not_said_to_have_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in ("test_vit.r160_in1k", "hf-hub:nobody/nothing"):
        with pytest.raises(EncoderError, match=r"cannot be had: .*--checkpoint-folder DIR"):
            import_network(source)
    with pytest.raises(EncoderError, match=r"no ImageNet weights .*: .*--from general"):
        backbones.imagenet_weights("resnet18")


def test_a_graph_that_disagrees_with_torch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "published", "registers")
    picture(1).save(tmp_path / "one.png")
    monkeypatch.setattr(checking, "AGREEMENT", 1.1)
    with pytest.raises(EncoderError, match=r"ONNX Runtime disagrees with it on .*one\.png"):
        import_network(str(folder), pictures=[str(tmp_path / "one.png")])


def test_a_network_that_bfloat16_is_too_coarse_for_runs_in_float32(
    imported: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    write_imported(imported, tmp_path / "mine")
    encoder = Encoder.open(tmp_path / "mine", "cpu")
    expected = ONNXRuntime(encoder.folder, encoder.record).embed(pixels(32))

    class Coarse(ONNXRuntime):
        """Far off, unless the encoder says that it must not be."""

        def __init__(self, folder: Path, record: EncoderRecord) -> None:
            super().__init__(folder, record)
            self.coarse = record.architecture.get("precision") != "float32"

        def embed(self, given: Any) -> Any:
            return super().embed(given) * (0.998 if self.coarse else 1.0)

    assert "precision" not in imported.architecture
    monkeypatch.setattr(checking, "OpenVINORuntime", Coarse)
    made = checking.checked(imported, pixels(32), expected)
    assert made.architecture["precision"] == "float32"
    assert made.origin["agreement"]["OpenVINO"] >= 0.999
    write_imported(made, tmp_path / "exact")
    exact = Encoder.open(tmp_path / "exact", "cpu")
    assert exact.fingerprint != encoder.fingerprint
    np.testing.assert_allclose(exact.runtime.embed(pixels(32)), expected, atol=1e-5)


def test_a_half_done_import_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: Imported
) -> None:
    place = tmp_path / "place"

    def fail(folder: Path, **fields: Any) -> str:
        folder.mkdir()
        (folder / "encoder.onnx").write_bytes(fields["onnx"])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_encoder", fail)
        with pytest.raises(StorageError, match="No space left"):
            write_imported(imported, place / "mine")
    assert not [*place.iterdir()]
    (place / "mine").mkdir()
    write_imported(imported, place / "mine")
    assert [path.name for path in place.iterdir()] == ["mine"]
    before = (place / "mine" / "encoder.json").read_bytes()
    with pytest.raises(UsageError, match="holds an encoder"):
        write_imported(imported, place / "mine")
    assert (place / "mine" / "encoder.json").read_bytes() == before
    (place / "notes.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        write_imported(imported, place)


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("test_vit", {"checkpoint_path": "weights.pth"}),
        ("test_vit", {"pretrained_cfg": {"file": "weights.pth"}}),
        ("local-dir:folder", {}),
        ("hf-hub:org/name", {}),
    ],
)
def test_an_encoder_cannot_have_timm_read_other_files(
    backbone: str, arguments: dict[str, Any]
) -> None:
    architecture = {
        "backbone": backbone, "arguments": arguments, "mean": [0.0] * 3, "std": [1.0] * 3,
        "pooling": [{"source": "head"}],
    }  # fmt: skip
    with pytest.raises(ValueError, match="backbone"):
        EmbeddingNetwork(architecture)


# The command


def test_the_command_says_what_it_made(
    shell: Shell,
    pictures: Callable[..., Path],
    imported: Imported,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved(shell.folder / "published", "efficientnet")
    photos = pictures({"a": 2, "b": 1})
    (told,) = shell.json(
        "encoder", "import", "published", "--out", "mine", "--size", "64", "--reference", photos,
        "--mean", "0.5", "--std", "0.25,0.25,0.25", "--resize", "squash",
    )  # fmt: skip
    assert told["encoder"] == "mine"
    assert told["images_per_second"] > 0
    assert told["threshold"] is None  # of so few identities
    assert told["memory"] is None or told["memory"] > 1e7
    assert told["preprocessing"]["resize"] == "squash"
    assert told["origin"]["licence"] == "apache-2.0"
    architecture = Encoder.open(shell.folder / "mine", "cpu").record.architecture
    assert (architecture["mean"], architecture["std"]) == ([127.5] * 3, [63.75] * 3)
    monkeypatch.setattr(
        "siamese_search.importing.network.import_network", lambda *_, **__: imported
    )
    again = shell("encoder", "import", "published", "-o", "other", "--size", "64")
    assert "licence: apache-2.0" in again.stdout
    assert "least cosine to torch: ONNX Runtime " in again.stdout
    assert "holds an encoder" in shell("encoder", "import", "x", "-o", "mine", code=2).stderr
    for option, value in (("--mean", "123"), ("--std", "a"), ("--size", "4x4x4")):
        assert option in shell("encoder", "import", "x", "-o", "y", option, value, code=2).stderr
    assert "add" in shell("add", photos, "--encoder", "mine", "--device", "cpu").stdout


def test_an_encoder_is_measured(toy_folder: Path) -> None:
    found = measured(toy_folder, "cpu")
    assert found.images_per_second > 100
    assert found.device == "cpu"
    with pytest.raises(EncoderError, match="unknown encoder"):
        measured(toy_folder / "none", "cpu")


def test_progress_says_the_time_left_where_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(common, "note", said.append)
    now = iter([0.0, 20.0, 40.0, 60.0])
    monkeypatch.setattr("siamese_search.cli.common.time.monotonic", lambda: next(now))
    with common.progress_bar("enrolling", lambda: 4000) as watch:
        for done in (6, 26, 3966):
            watch(Progress("enrolling", done))
    assert said == [
        "enrolling: 6 of 4000, 0.3 a second, about 4 hours left",
        "enrolling: 26 of 4000, 1 a second, about 66 minutes left",
        "enrolling: 3966 of 4000, 197 a second",
    ]
