"""The three networks (METHOD.md, section 5) at any width, with the parameter names of the authors' code.

    energy E_alpha(x) = -f_alpha(x) (Eq. 1)    generator g_theta(z) (Eq. 4)    encoder mu_phi(x), log V_phi(x)

Batch norm always uses batch statistics, so all three networks stay in training mode. Spectral norm then runs one power
iteration per forward pass of the EBM.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

IMAGE_SIZE = {"cifar10": 32, "celeba64": 64}


def upsample(h):
    return F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)


def conv3x3(channels_in, channels_out, bias):
    return nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=bias)


class EnergyBlock(nn.Module):
    def __init__(self, channels_in, channels_out, down):
        super().__init__()
        self.down = down
        self.conv1 = spectral_norm(conv3x3(channels_in, channels_out, False))
        self.conv2 = spectral_norm(conv3x3(channels_out, channels_out, False))
        if down:
            self.sc = spectral_norm(nn.Conv2d(channels_in, channels_out, 1, bias=False))

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(F.relu(x))))
        return F.avg_pool2d(h, 2) + F.avg_pool2d(self.sc(x), 2) if self.down else h + x


class EnergyStart(EnergyBlock):
    """The first block: no ReLU on its input, and the shortcut pools before its convolution."""

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(x)))
        return F.avg_pool2d(h, 2) + self.sc(F.avg_pool2d(x, 2))


class Energy(nn.Module):
    """(B,3,S,S) -> (B)."""

    def __init__(self, architecture, width):
        super().__init__()
        if architecture == "cifar10":
            self.conv_1 = EnergyStart(3, width, True)
            self.block2 = EnergyBlock(width, width, True)
            self.block3 = EnergyBlock(width, width, False)
            self.block4 = EnergyBlock(width, width, False)
            self.lin_5 = spectral_norm(nn.Linear(width, 1, bias=False))
        else:
            self.conv_1 = EnergyStart(3, width // 16, True)
            self.block2 = EnergyBlock(width // 16, width // 8, True)
            self.block3 = EnergyBlock(width // 8, width // 4, True)
            self.block4 = EnergyBlock(width // 4, width // 2, True)
            self.block5 = EnergyBlock(width // 2, width, True)
            self.lin_6 = spectral_norm(nn.Linear(width, 1, bias=False))

    def forward(self, x):
        *blocks, linear = self.children()
        for block in blocks:
            x = block(x)
        return linear(F.relu(x).mean((2, 3))).squeeze(1)


class GeneratorBlock(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.bn_1 = nn.BatchNorm2d(channels_in)
        self.bn_2 = nn.BatchNorm2d(channels_out)
        self.conv1 = conv3x3(channels_in, channels_out, True)
        self.conv2 = conv3x3(channels_out, channels_out, True)
        self.sc = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x):
        h = self.conv1(upsample(F.relu(self.bn_1(x))))
        return self.conv2(F.relu(self.bn_2(h))) + self.sc(upsample(x))


class Generator(nn.Module):
    """(B,d) -> (B,3,S,S)."""

    def __init__(self, architecture, width, latent):
        super().__init__()
        self.width = width
        self.lin_1 = nn.Linear(latent, 4 * 4 * width)
        if architecture == "cifar10":
            self.block2, self.block3, self.block4 = [GeneratorBlock(width, width) for _ in range(3)]
            self.bn_5 = nn.BatchNorm2d(width)
            self.conv5 = conv3x3(width, 3, True)
        else:
            blocks = [GeneratorBlock(width >> i, width >> i + 1) for i in range(4)]
            self.block2, self.block3, self.block4, self.block5 = blocks
            self.bn_6 = nn.BatchNorm2d(width // 16)
            self.conv6 = conv3x3(width // 16, 3, True)

    def forward(self, z):
        linear, *blocks, norm, conv = self.children()
        h = linear(z).view(-1, self.width, 4, 4)
        for block in blocks:
            h = block(h)
        return torch.tanh(conv(F.relu(norm(h))))


class Encoder(nn.Module):
    """(B,3,S,S) -> mu (B,d), log-variance (B,d)."""

    def __init__(self, architecture, width, latent):
        super().__init__()
        first = (3, 1, 1) if architecture == "cifar10" else (4, 2, 1)  # kernel, stride, padding
        layers = [nn.Conv2d(3, width, *first, bias=False), nn.LeakyReLU(0.2)]
        for i in range(3):
            layers += [nn.Conv2d(width << i, width << i + 1, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers)
        self.conv51 = nn.Conv2d(8 * width, latent, 4)
        self.conv52 = nn.Conv2d(8 * width, latent, 4)

    def forward(self, x):
        h = self.main(x)
        return self.conv51(h).flatten(1), self.conv52(h).flatten(1)


def initialize(net):
    """Xavier normal for convolutions, N(0,1) for batch-norm weights; the rest keeps PyTorch's defaults."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(getattr(module, "weight_orig", module.weight))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.zeros_(module.bias)
    return net.train()


def build(architecture, width_generator, width_ebm, width_encoder, latent):
    """Returns {"netE": EBM, "netG": generator, "netI": encoder}, initialised."""
    return {
        "netE": initialize(Energy(architecture, width_ebm)),
        "netG": initialize(Generator(architecture, width_generator, latent)),
        "netI": initialize(Encoder(architecture, width_encoder, latent)),
    }


def export_state(nets):
    """The full state as float32 arrays, named as in checkpoints; num_batches_tracked, a 0-d integer, gets shape (1)."""
    def array(value):
        return value.detach().to("cpu", torch.float32).numpy().copy().reshape(tuple(value.shape) or (1,))

    return {f"{prefix}.{name}": array(value)
            for prefix, net in nets.items() for name, value in net.state_dict().items()}


def import_state(nets, tensors):
    """The inverse of export_state; tensors without a network's prefix are ignored."""
    def tensor_like(value, name):
        return torch.from_numpy(tensors[name].copy()).reshape(value.shape).to(value.dtype)

    for prefix, net in nets.items():
        net.load_state_dict({name: tensor_like(value, f"{prefix}.{name}") for name, value in net.state_dict().items()})
