"""SRGAN, from Photo-Realistic Single Image Super-Resolution Using a GAN (Ledig et al., CVPR 2017).

https://arxiv.org/abs/1609.04802. The generator is SRResNet; the discriminator is needed in training only.
"""

from __future__ import annotations

from torch import Tensor, nn

from .srresnet import SRResNet


class SRGAN(SRResNet):
    """SRGAN's generator: SRResNet by another name, because Table S2 lists it apart."""

    name = "srgan"


class Discriminator(nn.Module):
    """VGG-style classifier of image patches N×3×P×P, P a multiple of 16; returns N logits (real is positive)."""

    def __init__(self, patch_size: int = 96) -> None:
        super().__init__()
        if patch_size <= 0 or patch_size % 16:
            raise ValueError(f"patch_size is {patch_size}, expected a positive multiple of 16.")
        self.features = nn.Sequential()
        in_channels = 3
        for index, out_channels in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
            # Odd layers halve the resolution: 3×3 and 4×4 stride-2 convolutions take turns.
            size, stride = (4, 2) if index % 2 else (3, 1)
            self.features.append(nn.Conv2d(in_channels, out_channels, size, stride, padding=1, bias=False))
            if index:
                self.features.append(nn.BatchNorm2d(out_channels))
            self.features.append(nn.LeakyReLU(0.2))
            in_channels = out_channels
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(512 * (patch_size // 16) ** 2, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).squeeze(1)
