"""One training iteration of dual-MCMC teaching, in the order of the authors' release: two chains (Eq. 3, 6), three updates (Eq. 7, 10, 15).

All noise is given, so that the iteration can be repeated exactly. Works in float32 and float64.
"""
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import models


@dataclass
class Settings:
    """Named as in the step file's metadata; the defaults are the release's CIFAR-10 settings."""
    architecture: str = "cifar10"
    width: int = 512  # of the generator and, unless width_ebm is given, of the EBM
    inference_width: int = 128
    latent: int = 128
    batch: int = 100
    steps_x: int = 30
    steps_z: int = 10
    resample: int = 1
    Gfactor: float = 1.0  # lambda_data
    Sfactor: float = 50.0  # lambda_ebm
    Ifactor: float = 0.1  # lambda_prior
    e_l_step_size: float = 0.5  # x-chain: step s_x, noise n_x
    e_n_step_size: float = 0.001
    l_step_size: float = 0.1  # z-chain: step s_z, noise n_z
    n_step_size: float = 0.1
    sig: float = 0.3  # divides the squared error as 1 / sig^2: an exact sigma of sig / sqrt(2)
    lrE: float = 1e-4
    lrG: float = 3e-4
    lrI: float = 1e-4
    wdE: float = 0.0
    wdG: float = 5e-4
    wdI: float = 5e-4
    method: str = "dual"  # or one of METHODS, whose switches are in effect beside the numbers above
    width_ebm: int = 0

    @property
    def image_size(self):
        return models.IMAGE_SIZE[self.architecture]

    def build(self):
        return models.build(self.architecture, self.width, self.width_ebm or self.width, self.inference_width, self.latent)

    def metadata(self):
        return {key: value for key, value in vars(self).items() if key not in ("width_ebm", "wdE") and (key, value) != ("method", "dual")}


# What distinguishes the methods that the paper compares with (paper.md, section 7): the networks that learn, where the chains start,
# and whether generator and encoder learn on the evidence lower bound instead of Eq. 10 and 15.
METHODS = {
    "dual": dict(learns="EGI", start_x="generator", start_z="encoder", amortised=False),
    "cooperative": dict(learns="EG", start_x="generator", start_z="encoder", amortised=False),
    "triangle": dict(learns="EGI", start_x="generator", start_z="encoder", amortised=True),
    "shortrun": dict(learns="E", start_x="noise", start_z="encoder", amortised=False),
    "abp": dict(learns="G", start_x="generator", start_z="noise", amortised=False),
    "vae": dict(learns="GI", start_x="generator", start_z="encoder", amortised=True),
}


@contextmanager
def frozen(net):
    """Inside, no gradient of the network's parameters is computed."""
    parameters = list(net.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    yield
    for parameter in parameters:
        parameter.requires_grad_(True)


def squared_error(x, y):
    return ((x - y) ** 2).sum()


def gaussian_nll(z, mu, logvar):
    """Eq. 15: mean over the batch of 1/2 sum logvar + 1/2 sum (z - mu)^2 / (1e-6 + exp(logvar))."""
    return (0.5 * logvar.sum(1) + 0.5 * ((z - mu) ** 2 / (1e-6 + logvar.exp())).sum(1)).mean()


def x_chain(x, netE, noise, s):
    """Eq. 3 at temperature (n_x / s_x)^2; noise: k_x tensors. Returns x and, per step, the sum of E over the batch before it."""
    x, energies = x.detach(), []
    with frozen(netE):
        for k in range(s.steps_x):
            x.requires_grad_(True)
            energy = netE(x).sum()
            (gradient,) = torch.autograd.grad(energy, x)
            x = x.detach() - 0.5 * s.e_l_step_size**2 * gradient + s.e_n_step_size * noise[k]
            energies.append(energy.detach())
    return x, energies


def z_chain(z, x, netG, noise, s):
    """Eq. 6; noise: k_z tensors. Returns z and, per step, the sum of (x - g(z))^2 over batch and pixels before it."""
    z, errors = z.detach(), []
    with frozen(netG):
        for k in range(s.steps_z):
            z.requires_grad_(True)
            error = squared_error(x, netG(z))
            (gradient,) = torch.autograd.grad(error, z)
            z = z.detach()
            z = z - 0.5 * s.l_step_size**2 * (gradient / s.sig**2 + z) + s.n_step_size * noise[k]
            errors.append(error.detach())
    return z, errors


class DualMcmc:
    """The networks and their three optimisers."""

    def __init__(self, nets, settings):
        self.nets, self.settings = nets, settings
        self.seconds = {}  # of the last iteration, per part
        self.optimisers = {f"net{letter}": torch.optim.Adam(
            nets[f"net{letter}"].parameters(), lr=getattr(settings, f"lr{letter}"), betas=(0, 0.9), eps=1e-8,
            weight_decay=getattr(settings, f"wd{letter}")) for letter in "EGI"}

    @contextmanager
    def timed(self, part):
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def update(self, name, loss):
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()  # leaves .grad as the loss's gradient: weight decay is added to a copy

    def iterate(self, x, noise):
        """x: (B,3,S,S); noise: as in the step file. Returns the step file's out.* without the prefix."""
        return self.iterate_dual(x, noise) if self.settings.method == "dual" else self.iterate_relative(x, noise)

    def iterate_relative(self, x, noise):
        """The same iteration for any method, dual too, written from its table above: what a method lacks is left out."""
        s, batch, z = self.settings, x.shape[0], noise["prior"]
        netE, netG, netI = (self.nets[name] for name in ("netE", "netG", "netI"))
        m, out, sigma2 = METHODS[s.method], {}, s.sig**2 / 2
        learns = {letter: letter in m["learns"] for letter in "EGI"}
        temperature = (s.e_n_step_size / s.e_l_step_size) ** 2

        if learns["E"] or (learns["G"] and s.Sfactor > 0) or (learns["I"] and s.Ifactor > 0):
            with torch.no_grad():
                out["x_init"] = noise["start_x"][0] if m["start_x"] == "noise" else netG(z)
            out["x_revised"], profile = x_chain(out["x_init"], netE, noise["langevin_x"], s)
            if profile:
                out["energy_profile"] = torch.stack(profile)
        if (learns["G"] and s.Gfactor > 0) or learns["I"]:
            if m["start_z"] == "encoder":
                with torch.no_grad():
                    out["mu"], out["logvar"] = netI(x)
                    out["z_init"] = out["mu"] + torch.exp(0.5 * out["logvar"]) * noise["reparam"]
            else:
                out["z_init"] = noise["reparam"]
            out["z_revised"], profile = z_chain(out["z_init"], x, netG, noise["langevin_z"], s)
            if profile:
                out["sse_profile"] = torch.stack(profile)

        if m["amortised"]:
            mu, logvar = netI(x)
            out["reconstruction"] = netG(mu + torch.exp(0.5 * logvar) * noise["reparam"])
            out["loss_recon"] = squared_error(x, out["reconstruction"]) / batch
            posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
            prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
            out["nll_posterior"] = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
            loss = s.Gfactor * (out["loss_recon"] / (2 * sigma2) + out["nll_posterior"])
            if s.Sfactor > 0 or s.Ifactor > 0:
                sample = netG(z)
                if s.Sfactor > 0:
                    with frozen(netE):
                        loss = loss + s.Sfactor * netE(sample).mean() / temperature
                if s.Ifactor > 0:
                    out["nll_prior"] = gaussian_nll(z, *netI(sample))
                    loss = loss + s.Ifactor * out["nll_prior"]
            for name in ("netG", "netI"):
                self.optimisers[name].zero_grad(set_to_none=True)
            loss.backward()
            for name in ("netG", "netI"):
                self.optimisers[name].step()
        elif learns["G"]:
            loss = 0
            if s.Gfactor > 0:
                out["reconstruction"] = netG(out["z_revised"])
                out["loss_recon"] = squared_error(x, out["reconstruction"]) / batch
                loss = loss + s.Gfactor * out["loss_recon"]
            if s.Sfactor > 0:
                out["loss_revise"] = squared_error(out["x_revised"], netG(z)) / batch
                loss = loss + s.Sfactor * out["loss_revise"]
            self.update("netG", loss)
        if learns["E"]:
            with torch.no_grad():
                netE(x)
        if learns["I"] and not m["amortised"]:
            out["nll_posterior"] = gaussian_nll(out["z_revised"], *netI(x))
            loss = out["nll_posterior"]
            if s.Ifactor > 0:
                out["nll_prior"] = gaussian_nll(z, *netI(out["x_revised"]))
                loss = loss + s.Ifactor * out["nll_prior"]
            self.update("netI", loss)
        if learns["E"]:
            out["energy_data"] = netE(x).mean()
            x_model = out["x_revised"]
            if s.resample:
                with torch.no_grad():
                    x_start = out["x_init"] if m["start_x"] == "noise" else netG(z)
                x_model, _ = x_chain(x_start, netE, noise["langevin_x_resample"], s)
                out["x_resampled"] = x_model
            out["energy_model"] = netE(x_model).mean()
            self.update("netE", (out["energy_data"] - out["energy_model"]) / temperature)
        return {name: (value if value.dim() else value.reshape(1)).detach() for name, value in out.items()}

    def iterate_dual(self, x, noise):
        """The authors' release, line by line."""
        s, (netE, netG, netI) = self.settings, (self.nets[name] for name in ("netE", "netG", "netI"))
        batch, z = x.shape[0], noise["prior"]
        self.seconds.clear()

        with self.timed("x_chain"):  # z ~ p(z), g(z), x-chain
            x_init = netG(z)
            x_revised, energy_profile = x_chain(x_init, netE, noise["langevin_x"], s)
        with self.timed("z_chain"):  # z ~ q(z|x), z-chain
            mu, logvar = netI(x)
            z_init = (mu + torch.exp(0.5 * logvar) * noise["reparam"]).detach()
            z_revised, sse_profile = z_chain(z_init, x, netG, noise["langevin_z"], s)

        with self.timed("generator"):  # Eq. 10
            reconstruction = netG(z_revised)
            loss_recon = squared_error(x, reconstruction) / batch
            loss_revise = squared_error(x_revised, x_init) / batch
            self.update("netG", s.Gfactor * loss_recon + s.Sfactor * loss_revise)
        with self.timed("ebm"), torch.no_grad():
            netE(x)  # the release logs this energy; it still makes a power iteration
        with self.timed("encoder"):  # Eq. 15
            nll_posterior = gaussian_nll(z_revised, mu, logvar)
            nll_prior = gaussian_nll(z, *netI(x_revised))
            self.update("netI", nll_posterior + s.Ifactor * nll_prior)

        with self.timed("ebm"):
            energy_data = netE(x).mean()
        x_model = x_revised
        if s.resample:  # the updated generator at the same z, with fresh noise
            with self.timed("x_chain"):
                with torch.no_grad():
                    x_start = netG(z)
                x_model, _ = x_chain(x_start, netE, noise["langevin_x_resample"], s)
        with self.timed("ebm"):  # Eq. 7
            energy_model = netE(x_model).mean()
            temperature = (s.e_n_step_size / s.e_l_step_size) ** 2
            self.update("netE", (energy_data - energy_model) / temperature)

        out = dict(x_init=x_init, x_revised=x_revised, mu=mu, logvar=logvar, z_init=z_init, z_revised=z_revised,
                   reconstruction=reconstruction, energy_profile=torch.stack(energy_profile), sse_profile=torch.stack(sse_profile))
        if s.resample:
            out["x_resampled"] = x_model
        scalars = dict(loss_recon=loss_recon, loss_revise=loss_revise, nll_posterior=nll_posterior, nll_prior=nll_prior,
                       energy_data=energy_data, energy_model=energy_model)
        out.update({name: value.reshape(1) for name, value in scalars.items()})
        return {name: value.detach() for name, value in out.items()}

    def gradients(self):
        """Of the last iteration's losses; networks that do not learn have none."""
        return {f"{prefix}.{name}": parameter.grad.detach().clone() for prefix, net in self.nets.items()
                if prefix[-1] in METHODS[self.settings.method]["learns"] for name, parameter in net.named_parameters()}


def relative_l2(found, expected):
    """|found - expected| / |expected|, in float64."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-300)).item()
