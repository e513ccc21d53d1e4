# # A PyTorch module
#
# A residual convnet of torch becomes int8, and is trained on exactly.

# +
from __future__ import annotations

import sys

import keras
import torch

import featherweight as fw
from featherweight.demo import dataset

SMALL = "--small" in sys.argv
torch.manual_seed(0)
images = dataset.load(full=False)
count = 300 if SMALL else 6000
x_train = torch.from_numpy(images.x_train[:count]).permute(0, 3, 1, 2)
y_train = torch.from_numpy(images.y_train[:count])
x_test, y_test = images.x_test[: count // 2].transpose(0, 3, 1, 2), images.y_test[: count // 2]


class Residual(torch.nn.Module):
    """A convolution beside which its input goes on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape as x."""
        return torch.relu(x + self.norm(self.conv(x)))


module = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3, stride=2, padding=1),
    Residual(16),
    torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
    Residual(32),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(32, 10),
)
optimizer = torch.optim.Adam(module.parameters(), 2e-3)
for _ in range(1 if SMALL else 5):
    for start in range(0, count, 64):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x_train[start : start + 64]), y_train[start : start + 64])
        loss.backward()
        optimizer.step()
module.eval()
# -

# ## int8, and what it costs

# +
q = fw.quantize(module, "int8", calibration=x_train[:100], progress=False)
q.save("torch_int8.tflite")
model = fw.load(module, samples=x_train[:1].numpy())
before = fw.evaluate(model, (x_test, y_test))
print(fw.paired_difference(fw.evaluate(q, (x_test, y_test)), before))
# -

# ## Trained on, with the float model as its teacher

# +
qat = fw.quantize_aware(model, "w4a8", calibration=x_train[:100].numpy(), teacher=True)
qat.compile(keras.optimizers.Adam(1e-4))
qat.fit(x_train.numpy(), batch_size=32, epochs=1, verbose=0)
trained = fw.finalize(qat)
trained.save("torch_w4a8.tflite")
print(fw.paired_difference(fw.evaluate(trained, (x_test, y_test)), before))
