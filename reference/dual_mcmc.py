"""One training iteration of dual-MCMC teaching, in the order of the authors' code: two Langevin chains (Eq. 3, 6) and
three updates (Eq. 10, 15, 7).

The caller passes all noise, so an iteration can be repeated exactly. Works in float32 and float64.
"""
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import models

# Names in this file and in the C++ code, and their spelling in step files (METHOD.md, section 8). The others agree.
STEP_FILE_NAMES = {
    # Settings -> metadata
    "width_generator": "width", "width_encoder": "inference_width",
    "lambda_data": "Gfactor", "lambda_ebm": "Sfactor", "lambda_generated": "Ifactor",
    "step_size_x": "e_l_step_size", "noise_x": "e_n_step_size", "step_size_z": "l_step_size", "noise_z": "n_step_size",
    "lr_ebm": "lrE", "lr_generator": "lrG", "lr_encoder": "lrI", "decay_generator": "wdG", "decay_encoder": "wdI",
    # results of an iteration -> out.*
    "energy_trace": "energy_profile", "sse_trace": "sse_profile", "nll_generated": "nll_prior", "kl": "nll_posterior",
}
ROLES = {"netE": "ebm", "netG": "generator", "netI": "encoder"}


# Dual-MCMC teaching and the paper's baselines (METHOD.md, section 7): the networks that learn (E, G, I for netE, netG,
# netI), where the chains start, whether generator and encoder learn jointly from an ELBO instead of Eq. 10 and 15, and
# the settings that make the method: no steps for the chains that it lacks, no weight for the terms that it lacks.
METHODS = {
    "dual": dict(learns="EGI", start_x="generator", start_z="encoder", joint_elbo=False, settings={}),
    "cooperative": dict(learns="EG", start_x="generator", start_z="encoder", joint_elbo=False,
                        settings=dict(steps_z=0, lambda_data=0.0)),
    "triangle": dict(learns="EGI", start_x="generator", start_z="encoder", joint_elbo=True,
                     settings=dict(steps_x=0, steps_z=0, resample=0,
                                   lambda_data=1.0, lambda_ebm=1.0, lambda_generated=1.0)),
    "shortrun": dict(learns="E", start_x="noise", start_z="encoder", joint_elbo=False, settings=dict(steps_z=0)),
    "abp": dict(learns="G", start_x="generator", start_z="noise", joint_elbo=False,
                settings=dict(steps_x=0, resample=0, lambda_ebm=0.0)),
    "vae": dict(learns="GI", start_x="generator", start_z="encoder", joint_elbo=True,
                settings=dict(steps_x=0, steps_z=0, resample=0, lambda_data=1.0, lambda_ebm=0.0, lambda_generated=0.0)),
}
# The readings of x~ in the EBM's update (METHOD.md, section 3).
NEGATIVES = "chain", "resampled", "generated"
NOT_IN_STEP_FILES = "width_ebm", "decay_ebm"  # as wide as the generator, and 0


@dataclass
class Settings:
    """Named like the flags of the command line; the defaults are the authors' for CIFAR-10 (METHOD.md, section 4)."""
    architecture: str = "cifar10"
    width_generator: int = 512
    width_encoder: int = 128
    latent: int = 128
    batch: int = 100
    steps_x: int = 30
    steps_z: int = 10
    resample: int = 1  # 0 or 1: negatives chain or resampled
    negatives: str = ""  # one of NEGATIVES; decides resample, too. Empty: as resample says
    lambda_data: float = 1.0
    lambda_ebm: float = 50.0
    lambda_generated: float = 0.1
    step_size_x: float = 0.5  # x-chain: s_x, n_x
    noise_x: float = 0.001
    step_size_z: float = 0.1  # z-chain: s_z, n_z
    noise_z: float = 0.1
    sig: float = 0.3  # the authors divide the squared error by sig^2: --sigma, the exact one, is sig / sqrt(2)
    lr_ebm: float = 1e-4
    lr_generator: float = 3e-4
    lr_encoder: float = 1e-4
    decay_ebm: float = 0.0
    decay_generator: float = 5e-4
    decay_encoder: float = 5e-4
    method: str = "dual"  # a key of METHODS; its "settings" are the caller's business, its other entries apply
    width_ebm: int = 0  # 0: as wide as the generator

    def __post_init__(self):
        for name, known in ("architecture", models.IMAGE_SIZE), ("method", METHODS), ("negatives", ("", *NEGATIVES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is '{getattr(self, name)}'; expected {', '.join(filter(None, known))}")
        narrowest = 16 if self.architecture == "celeba64" else 1  # its narrowest layers have W // 16 channels
        for name, least in [("width_generator", narrowest), ("width_encoder", 1), ("latent", 1), ("batch", 1),
                            ("steps_x", 0), ("steps_z", 0)]:
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.negatives == "generated" and METHODS[self.method]["start_x"] == "noise":
            raise ValueError(f"negatives is 'generated', but {self.method} has no generator to draw them from")
        if self.negatives:
            self.resample = int(self.negatives == "resampled")

    @property
    def negatives_in_use(self):
        return self.negatives or ("resampled" if self.resample else "chain")

    @property
    def image_size(self):
        return models.IMAGE_SIZE[self.architecture]

    @property
    def temperature_x(self):
        return (self.noise_x / self.step_size_x) ** 2

    def build(self):
        width_ebm = self.width_ebm or self.width_generator
        return models.build(self.architecture, self.width_generator, width_ebm, self.width_encoder, self.latent)

    def metadata(self):
        """The settings as in a step file."""
        defaults = ("method", "dual"), ("negatives", "")
        return {STEP_FILE_NAMES.get(name, name): value for name, value in vars(self).items()
                if name not in NOT_IN_STEP_FILES and (name, value) not in defaults}


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
    """Eq. 15: 1/2 sum logvar + 1/2 sum (z - mu)^2 / (1e-6 + exp(logvar)), mean over the batch."""
    return (0.5 * logvar.sum(1) + 0.5 * ((z - mu) ** 2 / (1e-6 + logvar.exp())).sum(1)).mean()


def reparametrize(mu, logvar, eps):
    return mu + torch.exp(0.5 * logvar) * eps


def x_chain(x, netE, noise, s):
    """Eq. 3 at temperature (n_x / s_x)^2; noise: k_x tensors.

    Returns x and the trace: for each step, the sum of E(x) over the batch before it; None without steps.
    """
    x, energies = x.detach(), []
    with frozen(netE):
        for k in range(s.steps_x):
            x.requires_grad_(True)
            energy = netE(x).sum()
            (gradient,) = torch.autograd.grad(energy, x)
            x = x.detach() - 0.5 * s.step_size_x**2 * gradient + s.noise_x * noise[k]
            energies.append(energy.detach())
    return x, torch.stack(energies) if energies else None


def z_chain(z, x, netG, noise, s):
    """Eq. 6; noise: k_z tensors.

    Returns z and the trace: for each step, the sum of (x - g(z))^2 over batch and pixels before it; None without steps.
    """
    z, errors = z.detach(), []
    with frozen(netG):
        for k in range(s.steps_z):
            z.requires_grad_(True)
            error = squared_error(x, netG(z))
            (gradient,) = torch.autograd.grad(error, z)
            z = z.detach()
            z = z - 0.5 * s.step_size_z**2 * (gradient / s.sig**2 + z) + s.noise_z * noise[k]
            errors.append(error.detach())
    return z, torch.stack(errors) if errors else None


def named_as_in_step_file(out):
    """The results of an iteration under their names in a step file (without out.), without those that are None.

    Scalars get the shape (1).
    """
    return {STEP_FILE_NAMES.get(name, name): (value if value.dim() else value.reshape(1)).detach()
            for name, value in out.items() if value is not None}


class DualMcmc:
    """The three networks and their optimizers."""

    def __init__(self, nets, settings):
        self.nets, self.settings = nets, settings
        self.seconds = {}  # of the last iteration, by part
        self.optimizers = {net: torch.optim.Adam(
            nets[net].parameters(), lr=getattr(settings, f"lr_{role}"), betas=(0, 0.9), eps=1e-8,
            weight_decay=getattr(settings, f"decay_{role}")) for net, role in ROLES.items()}

    @contextmanager
    def timed(self, part):
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def update(self, loss, *names):
        """One step of these networks' optimizers. Leaves .grad without weight decay, which Adam adds to a copy."""
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        for name in names:
            self.optimizers[name].step()

    def iterate(self, x, noise):
        """x: (B,3,S,S); noise: noise.* of the step file. Returns its out.*; both without their prefix."""
        return self.iterate_dual(x, noise) if self.settings.method == "dual" else self.iterate_any_method(x, noise)

    def iterate_dual(self, x, noise):
        """Dual-MCMC teaching, line by line as in the authors' code."""
        s, (netE, netG, netI) = self.settings, (self.nets[name] for name in ("netE", "netG", "netI"))
        batch, z = x.shape[0], noise["prior"]
        self.seconds.clear()

        with self.timed("x_chain"):  # z ~ p(z), g(z), x-chain
            x_init = netG(z)
            x_revised, energy_trace = x_chain(x_init, netE, noise["langevin_x"], s)
        with self.timed("z_chain"):  # z ~ q(z|x), z-chain
            mu, logvar = netI(x)
            z_init = reparametrize(mu, logvar, noise["reparam"]).detach()
            z_revised, sse_trace = z_chain(z_init, x, netG, noise["langevin_z"], s)

        with self.timed("generator"):  # Eq. 10
            reconstruction = netG(z_revised)
            loss_recon = squared_error(x, reconstruction) / batch
            loss_revise = squared_error(x_revised, x_init) / batch
            self.update(s.lambda_data * loss_recon + s.lambda_ebm * loss_revise, "netG")
        with self.timed("ebm"), torch.no_grad():
            netE(x)  # the authors log this energy; it is repeated here for its power iteration
        with self.timed("encoder"):  # Eq. 15
            nll_posterior = gaussian_nll(z_revised, mu, logvar)
            nll_generated = gaussian_nll(z, *netI(x_revised))
            self.update(nll_posterior + s.lambda_generated * nll_generated, "netI")

        with self.timed("ebm"):
            energy_data = netE(x).mean()
        x_model, x_resampled = x_revised, None
        with self.timed("x_chain"):
            if s.negatives_in_use != "chain":  # from the updated generator at the same z
                with torch.no_grad():
                    x_model = netG(z)
            if s.negatives_in_use == "resampled":  # with new noise
                x_model = x_resampled = x_chain(x_model, netE, noise["langevin_x_resample"], s)[0]
        with self.timed("ebm"):  # Eq. 7
            energy_model = netE(x_model).mean()
            self.update((energy_data - energy_model) / s.temperature_x, "netE")

        out = dict(x_init=x_init, x_revised=x_revised, mu=mu, logvar=logvar, z_init=z_init, z_revised=z_revised,
                   reconstruction=reconstruction, energy_trace=energy_trace, sse_trace=sse_trace,
                   x_resampled=x_resampled, loss_recon=loss_recon, loss_revise=loss_revise, nll_posterior=nll_posterior,
                   nll_generated=nll_generated, energy_data=energy_data, energy_model=energy_model)
        return named_as_in_step_file(out)

    def iterate_any_method(self, x, noise):
        """The same iteration for each of METHODS, dual included. Steps that a method lacks are skipped."""
        s, method, out = self.settings, METHODS[self.settings.method], {}
        learns_E, learns_G, learns_I = (letter in method["learns"] for letter in "EGI")
        if learns_E or (learns_G and s.lambda_ebm > 0) or (learns_I and s.lambda_generated > 0):
            self.run_x_chain(noise, out)
        if (learns_G and s.lambda_data > 0) or learns_I:
            self.run_z_chain(x, noise, out)
        if method["joint_elbo"]:
            self.update_joint_elbo(x, noise, out)
        elif learns_G:
            self.update_generator(x, noise, out)
        if learns_E:
            with torch.no_grad():
                self.nets["netE"](x)  # for its power iteration, as in iterate_dual
        if learns_I and not method["joint_elbo"]:
            self.update_encoder(x, noise, out)
        if learns_E:
            self.update_ebm(x, noise, out)
        return named_as_in_step_file(out)

    def run_x_chain(self, noise, out):
        from_noise = METHODS[self.settings.method]["start_x"] == "noise"
        with torch.no_grad():
            out["x_init"] = noise["start_x"][0] if from_noise else self.nets["netG"](noise["prior"])
        out["x_revised"], out["energy_trace"] = x_chain(out["x_init"], self.nets["netE"], noise["langevin_x"],
                                                        self.settings)

    def run_z_chain(self, x, noise, out):
        if METHODS[self.settings.method]["start_z"] == "encoder":
            with torch.no_grad():
                out["mu"], out["logvar"] = self.nets["netI"](x)
                out["z_init"] = reparametrize(out["mu"], out["logvar"], noise["reparam"])
        else:
            out["z_init"] = noise["reparam"]
        out["z_revised"], out["sse_trace"] = z_chain(out["z_init"], x, self.nets["netG"], noise["langevin_z"],
                                                     self.settings)

    def update_joint_elbo(self, x, noise, out):
        """Generator and encoder jointly: the ELBO and, if weighted, E(g(z)) and the NLL of generated pairs."""
        s, z, (netE, netG, netI) = self.settings, noise["prior"], (self.nets[name] for name in ("netE", "netG", "netI"))
        sigma_squared = s.sig**2 / 2
        mu, logvar = netI(x)
        out["reconstruction"] = netG(reparametrize(mu, logvar, noise["reparam"]))
        out["loss_recon"] = squared_error(x, out["reconstruction"]) / x.shape[0]
        posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
        prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        out["kl"] = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
        loss = s.lambda_data * (out["loss_recon"] / (2 * sigma_squared) + out["kl"])
        if s.lambda_ebm > 0 or s.lambda_generated > 0:
            sample = netG(z)
            if s.lambda_ebm > 0:
                with frozen(netE):
                    loss = loss + s.lambda_ebm * netE(sample).mean() / s.temperature_x
            if s.lambda_generated > 0:
                out["nll_generated"] = gaussian_nll(z, *netI(sample))
                loss = loss + s.lambda_generated * out["nll_generated"]
        self.update(loss, "netG", "netI")

    def update_generator(self, x, noise, out):
        """Eq. 10."""
        s, netG, loss = self.settings, self.nets["netG"], 0
        if s.lambda_data > 0:
            out["reconstruction"] = netG(out["z_revised"])
            out["loss_recon"] = squared_error(x, out["reconstruction"]) / x.shape[0]
            loss = loss + s.lambda_data * out["loss_recon"]
        if s.lambda_ebm > 0:
            out["loss_revise"] = squared_error(out["x_revised"], netG(noise["prior"])) / x.shape[0]
            loss = loss + s.lambda_ebm * out["loss_revise"]
        self.update(loss, "netG")

    def update_encoder(self, x, noise, out):
        """Eq. 15."""
        s, netI = self.settings, self.nets["netI"]
        out["nll_posterior"] = gaussian_nll(out["z_revised"], *netI(x))
        loss = out["nll_posterior"]
        if s.lambda_generated > 0:
            out["nll_generated"] = gaussian_nll(noise["prior"], *netI(out["x_revised"]))
            loss = loss + s.lambda_generated * out["nll_generated"]
        self.update(loss, "netI")

    def update_ebm(self, x, noise, out):
        """Eq. 7, after the second x-chain where there is one."""
        s, netE = self.settings, self.nets["netE"]
        out["energy_data"] = netE(x).mean()
        x_model = out["x_revised"]
        if s.negatives_in_use != "chain":
            with torch.no_grad():
                from_noise = METHODS[s.method]["start_x"] == "noise"
                x_model = out["x_init"] if from_noise else self.nets["netG"](noise["prior"])
        if s.negatives_in_use == "resampled":
            x_model = out["x_resampled"] = x_chain(x_model, netE, noise["langevin_x_resample"], s)[0]
        out["energy_model"] = netE(x_model).mean()
        self.update((out["energy_data"] - out["energy_model"]) / s.temperature_x, "netE")

    def gradients(self):
        """Of the last iteration's losses, for the networks that learn."""
        return {f"{prefix}.{name}": parameter.grad.detach().clone() for prefix, net in self.nets.items()
                if prefix[-1] in METHODS[self.settings.method]["learns"] for name, parameter in net.named_parameters()}


def relative_l2(found, expected):
    """|found - expected| / |expected|, in float64."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-300)).item()
