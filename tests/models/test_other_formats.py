"""Hugging Face folders and ONNX files; each skips where its extra is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mithridate as mi
from mithridate.errors import CheckpointError, InputError
from mithridate.models.hugging_face import Preprocessed, compare
from mithridate.models.open import source_digest
from mithridate.networks.checkpoint import fingerprint

NAMES = {0: "cat", 1: "dog", 2: "owl"}


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the extra hf is not installed")


@pytest.fixture
def onnx() -> Any:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    return pytest.importorskip("onnx", reason="onnx, to write a file with, is not installed")


def images(n: int, shape: tuple[int, int, int]) -> Tensor:
    """Of whole grey levels, as an image file holds them."""
    pixels = torch.randint(0, 256, (n, *shape), generator=mi.rng(0))
    return pixels.float() / 255


def vit(transformers: Any, folder: Path, processor: dict[str, Any] | None) -> nn.Module:
    """A tiny ViT that transformers itself makes and saves."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8, num_channels=3, id2label=NAMES,
        label2id={name: number for number, name in NAMES.items()}, initializer_range=0.5,
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    module: nn.Module = network
    return module


USUAL = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2,
    "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5],
}  # fmt: skip


def test_a_hugging_face_folder_prepares_its_images_inside(
    transformers: Any, tmp_path: Path
) -> None:
    network = vit(transformers, tmp_path, USUAL)
    model = mi.load(tmp_path)
    assert (model.class_names, model.image_shape) == (("cat", "dog", "owl"), (3, 16, 16))
    x = images(5, (3, 16, 16))
    mean, std = (torch.tensor(USUAL[f"image_{k}"])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        expected = network(pixel_values=(x - mean) / std).logits
    torch.testing.assert_close(model.logits(x), expected, rtol=1e-4, atol=1e-5)
    assert model.features(x).shape == (5, 16)
    gradient, _ = model.gradient(x, mi.Untargeted([0] * 5))
    assert float(gradient.abs().min(0).values.max()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": {"shortest_edge": 20}, "do_center_crop": True,
         "crop_size": {"height": 16, "width": 16}},
        {"resample": 3},
        {"resample": 0},
        {"do_rescale": True, "rescale_factor": 1 / 127.5, "do_normalize": False},
        {"do_normalize": False},
    ],
)  # fmt: skip
def test_images_of_another_size_get_the_processors_own_labels(
    transformers: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Against transformers' own processor (Pillow's, which rounds to 8 bits after resizing)."""
    network = vit(transformers, tmp_path, {**USUAL, **changes})
    family = "CLIP" if "crop_size" in changes else "ViT"
    kind = getattr(transformers, f"{family}ImageProcessorPil", None)
    if kind is None:
        pytest.skip("this transformers has no processor that does without torchvision")
    processor = kind.from_pretrained(str(tmp_path))
    x = nn.functional.interpolate(images(6, (3, 6, 6)), (24, 30), mode="bilinear")
    x = (x * 255).round() / 255
    pixels = [(255 * one).round().byte().permute(1, 2, 0).numpy() for one in x]
    values = torch.as_tensor(np.stack(processor(pixels)["pixel_values"]))
    with torch.no_grad():
        expected = network(pixel_values=values).logits
    model = mi.load(tmp_path, image_shape=(3, 24, 30))
    assert model.image_shape == (3, 24, 30)
    torch.testing.assert_close(model.logits(x), expected, rtol=0.05, atol=0.05)
    assert torch.equal(model.labels(x), expected.argmax(1))


@pytest.mark.parametrize(
    "family",
    ["Beit", "Bit", "CLIP", "ConvNext", "DeiT", "EfficientNet", "Levit", "MobileNetV1",
     "MobileNetV2", "MobileViT", "PoolFormer", "Pvt", "Segformer", "Siglip", "TextNet", "ViT"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(300, 240), (60, 90)])
def test_every_preprocessor_of_image_classifiers_is_rebuilt(
    transformers: Any, family: str, shape: tuple[int, int]
) -> None:
    """The pixels that the network gets, against transformers' own: rounded to 8 bits or not."""
    kind = getattr(transformers, f"{family}ImageProcessorPil", None)
    if kind is None:
        pytest.skip("this transformers has no processor that does without torchvision")
    x = nn.functional.interpolate(images(2, (3, 9, 9)), shape, mode="bilinear")
    x = (x * 255).round() / 255
    pixels = [(255 * one).round().byte().permute(1, 2, 0).numpy() for one in x]
    processor = kind()
    expected = torch.as_tensor(np.stack(processor(pixels)["pixel_values"]))
    rebuilt = Preprocessed(nn.Identity(), processor.to_dict(), 3)
    torch.testing.assert_close(rebuilt.network(rebuilt.scaled(x)), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "wrong",
    [{"resample": 2}, {"image_mean": [0.5, 0.45, 0.4]}, {"image_std": [0.3, 0.3, 0.3]},
     {"rescale_factor": 1 / 250}, {"do_flip_channel_order": True}],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(3, 300, 240), (3, 28, 28)])
def test_a_step_that_was_rebuilt_wrongly_is_seen(
    transformers: Any, tmp_path: Path, wrong: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    kind = getattr(transformers, "CLIPImageProcessorPil", None)
    if kind is None:
        pytest.skip("this transformers has no processor that does without torchvision")
    true = kind()

    class Taken:
        def __init__(self, changes: dict[str, Any]) -> None:
            self.to_dict = lambda: {**true.to_dict(), **changes}

        def __call__(self, *args: Any, **more: Any) -> Any:
            return true(*args, **more)

    compare(tmp_path, Taken({}), shape)
    with pytest.raises(CheckpointError, match="steps that are not rebuilt"):
        compare(tmp_path, Taken(wrong), shape)


def test_settings_that_the_file_leaves_out_are_the_preprocessors_own(
    transformers: Any, tmp_path: Path
) -> None:
    vit(transformers, tmp_path, {"image_processor_type": "ViTImageProcessor"})
    assert mi.load(tmp_path).image_shape == (3, 224, 224)
    given = tmp_path / "preprocessor_config.json"
    given.write_text(json.dumps({"feature_extractor_type": "ViTFeatureExtractor", "size": 16}))
    x = images(5, (3, 16, 16))
    with torch.no_grad():
        expected = mi.load(tmp_path).module.network.module(pixel_values=2 * x - 1).logits
    torch.testing.assert_close(mi.load(tmp_path).logits(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("Perceiver", "steps that are not rebuilt"), ("ImageGPT", "steps that are not rebuilt"),
     ("NoSuch", "cannot make what")],
)  # fmt: skip
def test_a_preprocessor_that_is_not_rebuilt_is_refused(
    transformers: Any, tmp_path: Path, family: str, reason: str
) -> None:
    vit(transformers, tmp_path, {"image_processor_type": f"{family}ImageProcessor"})
    with pytest.raises(CheckpointError, match=f"{reason}.*export the model as ONNX"):
        mi.load(tmp_path)


def test_a_filter_that_torch_has_not_is_refused_where_it_would_resize(
    transformers: Any, tmp_path: Path
) -> None:
    vit(transformers, tmp_path, {**USUAL, "resample": 1})
    assert mi.load(tmp_path).logits(images(2, (3, 16, 16))).shape == (2, 3)
    with pytest.raises(InputError, match="24 x 30 to 16 x 16 with Pillow's filter 1"):
        mi.load(tmp_path, image_shape=(3, 24, 30)).logits(images(2, (3, 24, 30)))


def test_what_a_folder_may_not_be(transformers: Any, tmp_path: Path) -> None:
    vit(transformers, tmp_path, None)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            mi.load(tmp_path)
        assert "\n" not in str(caught.value)

    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"x": "y"}}))
    refused("needs code that comes with it")
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"mean": [0.5]}}))
    refused("timm's.*pretrained_cfg, which is not read")
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused("lacks .* of the model's tensors")
    (tmp_path / "config.json").write_text("{")
    refused("cannot be read")
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    refused("refused by transformers|lacks")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    refused("has no model.safetensors .* convert it")


def test_a_hub_id_comes_from_the_cache_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    with pytest.raises(InputError, match="hf:org/name"):
        mi.load("hf:resnet")
    asked: list[tuple[str, str | None, bool]] = []

    def download(repo: str, *, revision: str | None, local_files_only: bool, **_: Any) -> str:
        asked.append((repo, revision, local_files_only))
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        mi.load("hf:org/name@v1")
    assert asked == [("org/name", "v1", True), ("org/name", "v1", False)]


# ONNX


def written(
    onnx: Any,
    path: Path,
    *,
    layout: str = "NCHW",
    kind: str = "FLOAT",
    batch: int | str = "N",
    softmax: bool = False,
    size: int | str = 8,
) -> tuple[Tensor, Tensor]:
    """A linear classifier of 3 classes over flat images as a file; its weights and biases."""
    helper, types = onnx.helper, onnx.TensorProto
    weight = torch.randn((192, 3), generator=mi.rng(3))
    bias = torch.randn(3, generator=mi.rng(4))
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=types.FLOAT)]
    where = "f"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]))
        where = "t"
    nodes.append(helper.make_node("Flatten", [where], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["z"]))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["p"], axis=1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", getattr(types, kind), shape)],
        [helper.make_tensor_value_info("p" if softmax else "z", types.FLOAT, [batch, 3])],
        [
            helper.make_tensor("w", types.FLOAT, weight.shape, weight.flatten().tolist()),
            helper.make_tensor("b", types.FLOAT, bias.shape, bias.tolist()),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return weight, bias


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "UINT8"])
@pytest.mark.parametrize("batch", ["N", 4])
def test_onnx_gives_the_scores_of_the_same_network(
    onnx: Any, tmp_path: Path, layout: str, kind: str, batch: int | str
) -> None:
    path = tmp_path / "m.onnx"
    weight, bias = written(onnx, path, layout=layout, kind=kind, batch=batch)
    x = images(9, (3, 8, 8))
    seen = x * 255 if kind == "UINT8" else x
    model = mi.load(path)
    assert (model.classes, model.image_shape) == (3, (3, 8, 8))
    expected = seen.flatten(1) @ weight + bias
    loose = 0.05 if kind == "FLOAT16" else 1e-3
    torch.testing.assert_close(model.logits(x), expected, rtol=loose, atol=loose)
    assert model.cost.queries == 9


def test_onnx_is_attacked_by_scores_and_labels_and_by_nothing_else(
    onnx: Any, tmp_path: Path
) -> None:
    weight, bias = written(onnx, tmp_path / "m.onnx")
    model, x = mi.load(tmp_path / "m.onnx", classes=["a", "b", "c"]), images(6, (3, 8, 8))
    assert model.class_names == ("a", "b", "c")
    y = (x.flatten(1) @ weight + bias).argmax(1)
    for name, values in {
        "square": {"eps": 0.5, "queries": 100},
        "hopskipjump": {"budget": 300},
    }.items():
        attack = mi.registry.create("attacks", name, values)
        result = mi.run_attack(attack, model, x, mi.Untargeted(y), rng=mi.rng(0))
        assert result.status == "done"
        assert result.gradients == 0
        predicted = (result.adversarials.flatten(1) @ weight + bias).argmax(1)
        assert torch.equal(result.predicted, predicted)
        assert bool(result.success.any())
    pgd = mi.attacks.PGD(eps=0.1, step_size=0.05, steps=2)
    with pytest.raises(
        InputError, match=r"needs gradients.*square, one-pixel, hopskipjump, boundary"
    ) as e:
        mi.run_attack(pgd, model, x, mi.Untargeted(y), rng=mi.rng(0))
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="no gradients"):
        model.gradient(x, mi.Untargeted(y))
    smooth = mi.transforms.SpatialSmoothing(kind="median", window=3).wrap(model)
    assert not smooth.gradients


def test_onnx_probabilities_sizes_and_identity(onnx: Any, tmp_path: Path) -> None:
    weight, bias = written(onnx, tmp_path / "p.onnx", softmax=True, size="S")
    with pytest.raises(InputError, match="image_shape"):
        mi.load(tmp_path / "p.onnx")
    model = mi.load(tmp_path / "p.onnx", image_shape=(3, 8, 8), outputs="probabilities")
    x = images(4, (3, 8, 8))
    torch.testing.assert_close(
        model.scores(x), (x.flatten(1) @ weight + bias).softmax(1), rtol=1e-3, atol=1e-4
    )
    written(onnx, tmp_path / "q.onnx")
    assert fingerprint(model) != fingerprint(mi.load(tmp_path / "q.onnx"))
    (tmp_path / "r.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="refused by onnxruntime"):
        mi.load(tmp_path / "r.onnx")


@pytest.mark.parametrize("name", ["w.data", "w" * 200], ids=["short", "long"])
def test_weights_beside_an_onnx_file_are_part_of_it(onnx: Any, tmp_path: Path, name: str) -> None:
    """As torch.onnx.export writes them; the file itself is the same for any weights."""
    seen, place = [], tmp_path / "m.onnx"
    for factor in (1, 2):
        weight, _ = written(onnx, place)
        file = onnx.load(place)
        file.graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array((factor * weight).numpy(), "w")
        )
        onnx.save(file, place, save_as_external_data=True, location=name, size_threshold=0)
        seen.append((place.read_bytes(), source_digest(str(place)), fingerprint(mi.load(place))))
        (tmp_path / name).rename(tmp_path / f"{name}.old") if factor == 1 else None
    first, second = seen
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[2] != second[2]
