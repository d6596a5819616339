"""Makes bundles for tests: small, of the forms that a hospital may bring, with weights whose answers are known."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai.contract import InstanceRef
from tests.support.samples import make_image

LUNG = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
METADATA: dict[str, Any] = {
    "version": "1.0.0",
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "task": "Test",
    "description": "For tests.",
    "authors": "Test",
    "copyright": "Test",
}


def output(key: str, channel: int, threshold: float = 0.5, **more: Any) -> dict[str, Any]:
    """An output of reading.json with a code that need not be true."""
    code = {"value": str(27925004 + channel), "scheme": "SCT", "meaning": key.replace("_", " ").capitalize()}
    name = key.replace("_", " ").capitalize()
    return {"key": key, "name": name, "channel": channel, "code": code, "threshold": threshold} | more


def reading(task: str, *outputs: dict[str, Any], kind: str = "image", **more: Any) -> dict[str, Any]:
    """A reading.json for radiographs of the chest, or for CT."""
    source = {"kind": kind, "modality": ["CR", "DX"] if kind == "image" else ["CT"]}
    return {
        "format": 1,
        "name": f"test_{task}",
        "task": task,
        "manufacturer": "Test",
        "intended_use": "For tests.",
        "input": source | more.pop("input", {}),
        "outputs": list(outputs),
    } | more


def metadata(shape: list[Any], channels: int, *, inputs: int = 1, **image: Any) -> dict[str, Any]:
    """A metadata.json for an input ``image`` of a shape and a ``pred`` of so many channels."""
    tensor = {"type": "image", "format": "magnitude", "spatial_shape": shape, "dtype": "float32", "value_range": [0, 1]}
    tensor |= {"is_patch_data": False}
    said = {"num_channels": inputs, "channel_def": {str(number): "image" for number in range(inputs)}}
    answered = {"num_channels": channels, "channel_def": {str(number): f"class {number}" for number in range(channels)}}
    return METADATA | {
        "network_data_format": {"inputs": {"image": tensor | said | image}, "outputs": {"pred": tensor | answered}}
    }


def write(
    path: Path,
    *,
    config: dict[str, Any] | str,
    reading: dict[str, Any],
    metadata: dict[str, Any],
    weights: Any = None,
    script: torch.jit.ScriptModule | None = None,
) -> Path:
    """Write the files of a bundle; a ``config`` that is text is YAML."""
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    if isinstance(config, str):
        (path / "configs" / "inference.yaml").write_text(config)
    else:
        (path / "configs" / "inference.json").write_text(json.dumps(config, indent=4))
    for name, content in (("metadata", metadata), ("reading", reading)):
        (path / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
    if weights is not None:
        torch.save(weights, path / "models" / "model.pt")
    if script is not None:
        (path / "models" / "model.ts").write_bytes(script.save_to_buffer())
    return path


# --- a classifier of radiographs ------------------------------------------------------------------------------------


_BRIGHTNESS = """
import torch


class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
        self.head = torch.nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))
"""


def brightness_weights() -> dict[str, torch.Tensor]:
    """Class 0 is how much is whiter than 0.7, class 1 how much is darker than 0.3, and class 2 is always at 0.9."""
    return {
        "features.1.weight": torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1),
        "features.1.bias": torch.tensor([-0.7, 0.3]),
        "head.weight": torch.tensor([[1000.0, 0.0], [0.0, 100.0], [0.0, 0.0]]),
        "head.bias": torch.tensor([-4.0, -20.0, 2.2]),
    }


def classifier(path: Path, *, cam: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A classifier of our own form: a bright place is present, where it is; and one class that is undetermined."""
    script = path / "scripts"
    script.mkdir(parents=True)
    (script / "__init__.py").write_text("")
    (script / "net.py").write_text(_BRIGHTNESS)
    config = {
        "network_def": {"_target_": "scripts.net.Brightness"},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Resized", "keys": "image", "spatial_size": [128, 128], "mode": "area"}],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
        },
    } | changes
    outputs = (
        output("bright", 0, site=LUNG),
        output("dark", 1),
        output("unsure", 2, undetermined="It was seen in too few images."),
    )
    return write(
        path,
        config=config,
        reading=reading("classification", *outputs, **({"cam": cam} if cam else {})),
        metadata=metadata([128, 128], 3),
        weights=brightness_weights(),
    )


def zoo(preprocessing: list[dict[str, Any]], postprocessing: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """An inference.json as bundles of MONAI's Model Zoo have them: with the data, the evaluator and the handlers.

    Nothing of these can be built here: there are no such files, and ignite is not installed.
    """
    return {
        "imports": ["$import glob", "$import os", "$import numpy", "$from ignite.engine import Events"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/nowhere",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))[0]",
        "device": "$torch.device('cuda:7')",
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 4},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": postprocessing},
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": True,
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    } | parts


def save(**more: Any) -> dict[str, Any]:
    return {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_ext": ".nii.gz"} | more


def convolution(dimensions: int, channels: int = 2) -> dict[str, Any]:
    """One convolution of a voxel: what it answers is plain."""
    return {
        "_target_": "Convolution",
        "spatial_dims": dimensions,
        "in_channels": 1,
        "out_channels": channels,
        "kernel_size": 1,
        "conv_only": True,
    }


def ct_segmentation(path: Path, *, finding: bool = False, spacing: float = 2.0, **changes: Any) -> Path:
    """The form of ``spleen_ct_segmentation``: outlines what is denser than 100 HU, by a softmax of two channels."""
    preprocessing = [
        {"_target_": "LoadImaged", "keys": "@image_key"},
        {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
        {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [spacing] * 3, "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "@image_key",
            "a_min": -1000,
            "a_max": 1000,
            "b_min": 0,
            "b_max": 1,
            "clip": True,
        },
        {"_target_": "EnsureTyped", "keys": "@image_key"},
    ]
    postprocessing = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "@image_key",
            "meta_keys": "pred_meta_dict",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        save(output_dtype="$numpy.float32", output_postfix="trans", separate_folder=True),
    ]
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 2, "overlap": 0.25}
    config = zoo(preprocessing, postprocessing, network_def=convolution(3), inferer=inferer) | changes.pop("config", {})
    # 100 HU is 0.55 after scaling: there both channels are equal.
    weights = {
        "conv.weight": torch.tensor([0.0, 200.0]).reshape(2, 1, 1, 1, 1),
        "conv.bias": torch.tensor([0.0, -110.0]),
    }
    return write(
        path,
        **{
            "config": config,
            "reading": reading(
                "segmentation",
                output("dense", 1, finding=finding, min_volume_ml=0.1),
                kind="volume",
                prediction="labels",
            ),
            "metadata": metadata([32, 32, 32], 2, is_patch_data=True),
            "weights": {"model": weights},
        }
        | changes,
    )


def air_lesions(path: Path, **changes: Any) -> Path:
    """A volume's channels, without a way back: as an own bundle of MONAI's parts may be, in YAML."""
    config = """\
network_def:
  _target_: Convolution
  spatial_dims: 3
  in_channels: 1
  out_channels: 1
  kernel_size: 1
  conv_only: true
preprocessing:
  _target_: Compose
  transforms:
  - {_target_: LoadImaged, keys: ct, reader: ITKReader, ensure_channel_first: true}
  - {_target_: Orientationd, keys: ct, axcodes: PLS}
  - {_target_: ScaleIntensityRanged, keys: ct, a_min: -1000, a_max: 1000, b_min: 0, b_max: 1, clip: true}
postprocessing: $monai.transforms.Compose([monai.transforms.Activationsd('pred', sigmoid=True)])
"""
    weights = {"conv.weight": torch.full((1, 1, 1, 1, 1), 200.0), "conv.bias": torch.tensor([-110.0])}
    shape = metadata(["*", "*", "32*n"], 1)
    shape["network_data_format"]["inputs"] = {"ct": shape["network_data_format"]["inputs"]["image"]}
    return write(
        path,
        **{
            "config": config,
            "reading": reading("segmentation", output("lesion", 0), kind="volume"),
            "metadata": shape,
            "weights": {"epoch": 7, "state_dict": {f"module.{key}": value for key, value in weights.items()}},
        }
        | changes,
    )


_BRIGHT_BOXES = """
import torch
from monai.inferers import Inferer


class Detector(torch.nn.Module):
    threshold = None

    def set_threshold(self, threshold):
        self.threshold = threshold


class Boxes(Inferer):
    # One box around all that is brighter than a threshold after the network, as its corners.
    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def __call__(self, inputs, network, *args, **kwargs):
        answers = []
        for image in network(inputs)[:, 0]:
            at = (image > self.detector.threshold).nonzero()
            if len(at) == 0:
                boxes = torch.zeros((0, 2 * image.ndim))
            else:
                boxes = torch.cat([at.min(0).values, at.max(0).values + 1])[None].float()
            count = len(boxes)
            labels, scores = torch.zeros(count, dtype=torch.long), torch.full((count,), 0.875)
            answers.append({"box": boxes, "label": labels, "label_scores": scores})
        return answers
"""


def detection_3d(path: Path, *, world: bool = True) -> Path:
    """The form of ``lung_nodule_ct_detection`` around a detector that boxes what is denser than 100 HU."""
    scripts = path / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "__init__.py").write_text("")
    (scripts / "detection_inferer.py").write_text(_BRIGHT_BOXES)
    preprocessing = [
        {"_target_": "LoadImaged", "keys": "image", "meta_key_postfix": "meta_dict", "_disabled_": "@whether_raw"},
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "itkreader",
            "affine_lps_to_ras": True,
            "_disabled_": "@whether_resampled",
        },
        {"_target_": "EnsureChannelFirstd", "keys": "image", "meta_key_postfix": "meta_dict"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 2.5]},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": -1000.0,
            "a_max": 1000.0,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
        {"_target_": "EnsureTyped", "keys": "image"},
    ]
    postprocessing = [
        {
            "_target_": "ClipBoxToImaged",
            "box_keys": "box",
            "label_keys": "label",
            "box_ref_image_keys": "image",
            "remove_empty": True,
        },
        {
            "_target_": "AffineBoxToWorldCoordinated",
            "box_keys": "box",
            "box_ref_image_keys": "image",
            "image_meta_key_postfix": "meta_dict",
            "affine_lps_to_ras": True,
        },
        {"_target_": "ConvertBoxModed", "box_keys": "box", "src_mode": "xyzxyz", "dst_mode": "cccwhd"},
        {"_target_": "DeleteItemsd", "keys": ["image"]},
    ]
    config = zoo(
        preprocessing,
        postprocessing if world else postprocessing[:1],
        whether_raw=False,
        whether_resampled="$(not @whether_raw)",
        network_def=convolution(3, 1),
        detector={"_target_": "scripts.detection_inferer.Detector"},
        detector_ops=["$@detector.set_threshold(0.5)"],
        inferer={"_target_": "scripts.detection_inferer.Boxes", "detector": "@detector"},
    )
    config["evaluator"]["_requires_"] = "@detector_ops"
    detection = {"space": "world", "mode": "cccwhd"} if world else {}
    return write(
        path,
        config=config,
        reading=reading("detection", output("nodule", 0, site=LUNG), kind="volume", detection=detection),
        metadata=metadata(["16*n", "16*n", "8*n"], 1, is_patch_data=True),
        weights={"conv.weight": torch.full((1, 1, 1, 1, 1), 1.0), "conv.bias": torch.tensor([-0.05])},
    )


def retinanet(path: Path, dimensions: int = 2) -> Path:
    """MONAI's own RetinaNet over a small ResNet, its weights random but for a bias: it is sure of everything."""
    size = {2: [64, 64], 3: [32, 32, 32]}[dimensions]
    stride = [2] * dimensions
    anchors = {2: [[6, 8], [12, 10]], 3: [[6, 8, 4], [12, 10, 6]]}[dimensions]
    kind = {2: "image", 3: "volume"}[dimensions]
    preprocessing: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Resized", "keys": "image", "spatial_size": size},
        {"_target_": "ScaleIntensityd", "keys": "image"},
    ]
    config = zoo(
        preprocessing,
        [{"_target_": "ClipBoxToImaged", "box_keys": "box", "label_keys": "label", "box_ref_image_keys": "image"}],
        anchor_generator={
            "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
            "feature_map_scales": [1, 2],
            "base_anchor_shapes": anchors,
        },
        backbone=(
            f"$monai.networks.nets.resnet.resnet10(spatial_dims={dimensions},n_input_channels=1,"
            f"conv1_t_stride={stride},conv1_t_size={[7] * dimensions})"
        ),
        feature_extractor=(
            "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor("
            f"@backbone,{dimensions},False,[1],None)"
        ),
        network_def={
            "_target_": "RetinaNet",
            "spatial_dims": dimensions,
            "num_classes": 1,
            "num_anchors": 2,
            "feature_extractor": "@feature_extractor",
            "size_divisible": [16] * dimensions,
        },
        detector={
            "_target_": "RetinaNetDetector",
            "network": "@network",
            "anchor_generator": "@anchor_generator",
            "debug": False,
        },
        detector_ops=[
            "$@detector.set_target_keys(box_key='box', label_key='label')",
            "$@detector.set_box_selector_parameters(score_thresh=0.02,topk_candidates_per_level=50,nms_thresh=0.1,"
            "detections_per_img=6)",
        ],
        inferer="$lambda inputs, network: @detector(inputs, use_inferer=False)",
    )
    config["evaluator"]["_requires_"] = "@detector_ops"
    torch.manual_seed(1)
    from ai.bundle import torchvision  # noqa: PLC0415

    torchvision.replace_missing()
    from monai.apps.detection.networks.retinanet_network import (  # noqa: PLC0415
        RetinaNet,
        resnet_fpn_feature_extractor,
    )
    from monai.networks.nets.resnet import resnet10  # noqa: PLC0415

    backbone = resnet10(
        spatial_dims=dimensions, n_input_channels=1, conv1_t_stride=stride, conv1_t_size=[7] * dimensions
    )
    features = resnet_fpn_feature_extractor(backbone, dimensions, False, [1], None)
    network = RetinaNet(dimensions, 1, 2, features, size_divisible=[16] * dimensions)
    weights = network.state_dict()
    weights["classification_head.cls_logits.bias"] += 8.0
    return write(
        path,
        config=config,
        reading=reading("detection", output("nodule", 0), kind=kind),
        metadata=metadata(size, 1),
        weights=weights,
    )


def scripted(path: Path) -> Path:
    """TorchScript alone, which needs no network_def: two classes, how bright and how dark a picture is."""

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.mean(dim=(1, 2, 3))
            return torch.stack([bright, 1.0 - bright], dim=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather see other formats; bundles have this one
        script = torch.jit.script(Mean())
    config = zoo(
        [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Resized", "keys": "image", "spatial_size": [64, 64]},
        ],
        [
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            {"_target_": "SaveClassificationd", "keys": "pred", "saver": None, "meta_keys": None},
        ],
    )
    return write(
        path,
        config=config,
        reading=reading("classification", output("bright", 0), output("dark", 1)),
        metadata=metadata([64, 64], 2),
        script=script,
    )


def coloured(path: Path) -> Path:
    """An older bundle for pictures with three colours, as ``endoscopic_inbody_classification`` is."""
    preprocessing = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "AsChannelFirstd", "keys": "image"},
        {"_target_": "Resized", "keys": "image", "spatial_size": [64, 64], "mode": "bilinear"},
        {"_target_": "CastToTyped", "dtype": "$torch.float32", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image"},
    ]
    scripts = path / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "__init__.py").write_text("")
    (scripts / "net.py").write_text(_HALVES)
    postprocessing = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 2}]
    return write(
        path,
        config=zoo(preprocessing, postprocessing, network_def={"_target_": "scripts.net.Halves"}),
        reading=reading("classification", output("first", 0), output("second", 1)),
        metadata=metadata([64, 64], 2, inputs=3),
        weights={},
    )


_HALVES = """
import torch


class Halves(torch.nn.Module):
    # How bright the two halves of the first axis are, in the green channel.
    def forward(self, x):
        return torch.stack([half[:, 1].mean(dim=(1, 2)) for half in x.chunk(2, dim=2)], dim=1)
"""


def outlines_2d(path: Path) -> Path:
    """A picture's outline with the way back: as read by MONAI, columns first, and turned on the way."""
    preprocessing = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Rotate90d", "keys": "image", "k": 1},
        {"_target_": "Resized", "keys": "image", "spatial_size": [160, 128], "mode": "area"},
    ]
    postprocessing = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
        save(),
    ]
    return write(
        path,
        config=zoo(preprocessing, postprocessing, network_def=convolution(2, 1)),
        reading=reading("segmentation", output("bright", 0, min_area=20)),
        metadata=metadata([160, 128], 1),
        weights={"conv.weight": torch.full((1, 1, 1, 1), 40.0), "conv.bias": torch.tensor([-32.0])},
    )


# --- what they read -------------------------------------------------------------------------------------------------


def radiograph(folder: Path, image: NDArray[np.uint16], uid: str = "1.2.3.1") -> InstanceRef:
    """A DX of 12 bits, written to a file."""
    made = make_image(
        SOPInstanceUID=uid,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
        Modality="DX",
        PatientOrientation=["L", "F"],
        Rows=image.shape[0],
        Columns=image.shape[1],
        PixelData=image.tobytes(),
    )
    path = folder / f"{uid}.dcm"
    made.save_as(path, enforce_file_format=True)
    return InstanceRef(uid, str(made.SOPClassUID), str(path))


def ct_series(
    folder: Path, hounsfield: NDArray[np.int16], *, spacing: tuple[float, float, float] = (2.5, 1.0, 1.0)
) -> tuple[InstanceRef, ...]:
    """An axial CT (slices x rows x columns, from the feet up), a file for each slice."""
    refs = []
    for number, image in enumerate(hounsfield):
        made = make_image(
            SOPInstanceUID=f"1.2.4.{number + 1}",
            SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
            StudyInstanceUID="1.2.4",
            SeriesInstanceUID="1.2.4.0",
            FrameOfReferenceUID="1.2.4.0.1",
            Modality="CT",
            InstanceNumber=len(hounsfield) - number,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            ImagePositionPatient=[-100.0, -80.0, -300.0 + spacing[0] * number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[spacing[1], spacing[2]],
            SliceThickness=spacing[0],
            RescaleSlope=1,
            RescaleIntercept=-1024,
            Rows=image.shape[0],
            Columns=image.shape[1],
            PixelData=(image.astype(np.int32) + 1024).astype(np.uint16).tobytes(),
        )
        path = folder / f"ct-{number + 1}.dcm"
        made.save_as(path, enforce_file_format=True)
        refs.append(InstanceRef(made.SOPInstanceUID, str(made.SOPClassUID), str(path)))
    return tuple(refs)
