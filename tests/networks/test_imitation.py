"""`imitate`: an SRResNet that enlarges as an EDSR does."""

import pytest
import torch

from ddtb_lite.networks import EDSR, SRGAN, SRResNet, imitate
from ddtb_lite.networks.srresnet import OLDER_PIXEL_RANGE

# What zeros at the border change reaches this far: 1 + 2·2 + 1 pixels through the body, fewer than 4 through the tail.
REACH = 10


def random_edsr(scale: int, n_feats: int) -> EDSR:
    """One whose biases are as loud as what its convolutions make of the image."""
    torch.manual_seed(0)
    network = EDSR(scale, n_blocks=2, n_feats=n_feats).double().eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=5)
    return network


@pytest.mark.parametrize("kind", [SRResNet, SRGAN])
@pytest.mark.parametrize(("scale", "n_feats"), [(2, 12), (3, 32), (4, 48)])
@pytest.mark.parametrize("older", [False, True])
@torch.no_grad()
def test_away_from_the_border_it_computes_the_same(kind: type[SRResNet], scale: int, n_feats: int, older: bool) -> None:
    edsr = random_edsr(scale, n_feats)
    network = kind(scale, n_blocks=2, n_feats=n_feats).double().eval()
    if older:
        network.pixel_range.copy_(torch.tensor(OLDER_PIXEL_RANGE))
    imitate(network, edsr, 255 * torch.rand(4, 3, 24, 24).double())
    image = 255 * torch.rand(1, 3, 30, 30).double()
    inner = slice(REACH * scale, -REACH * scale)
    expected = edsr(image)[..., inner, inner]
    assert expected.std() > 10
    torch.testing.assert_close(network(image)[..., inner, inner], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_batch_norm_knows_the_pictures_it_was_shown() -> None:
    edsr, network = random_edsr(2, 12), SRResNet(2, n_blocks=2, n_feats=12).double().train()
    images = 255 * torch.rand(4, 3, 24, 24).double()
    imitate(network, edsr, images)
    assert network.training
    remembering, learning = network.eval()(images), network.train()(images)
    torch.testing.assert_close(learning, remembering, rtol=0, atol=1e-6)


def test_another_shape_is_refused() -> None:
    for scale, n_blocks in ((3, 2), (2, 1)):
        with pytest.raises(ValueError, match=f"×2.*2.*×{scale}.*{n_blocks}"):
            imitate(SRResNet(2, n_blocks=2), EDSR(scale, n_blocks=n_blocks), torch.zeros(1, 3, 8, 8))
