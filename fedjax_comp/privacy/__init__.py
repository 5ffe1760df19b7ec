"""Privacy: sums that hide each summand, and noise that bounds what a sum reveals.

Secure aggregation hides each client's message from the server; differential privacy
bounds what the sum, and every model made of it, reveals of any client. Neither replaces
the other. Each module says what it protects from whom; the protocol assumes a server
that is curious but follows it.
"""

from fedjax_comp.privacy.accounting import (
    cohort_epsilon,
    discrete_gaussian_zcdp,
    gaussian_delta,
    gaussian_epsilon,
    rdp_epsilon,
    skellam_rdp,
)
from fedjax_comp.privacy.central import equally_weighted, gaussian_noise, mean_over
from fedjax_comp.privacy.clipping import clipped
from fedjax_comp.privacy.discrete import discrete_gaussian, skellam
from fedjax_comp.privacy.distributed import (
    bits_for_noise,
    bounded_rounding,
    private_sum,
    round_bounded,
)
from fedjax_comp.privacy.errors import ProtocolError, TamperedShare, TooFewParties
from fedjax_comp.privacy.integers import integer_grid
from fedjax_comp.privacy.messages import secure_setting
from fedjax_comp.privacy.qualify import qualify
from fedjax_comp.privacy.secure_round import secure_round
from fedjax_comp.privacy.secure_sum import Step, secure_sum
from fedjax_comp.privacy.solving import (
    distributed_epsilon,
    least_noise,
    sampled_rdp,
)
from fedjax_comp.privacy.summed_power import summed_power_step
from fedjax_comp.privacy.traced_noise import ClientNoise, client_noise

__all__ = [
    "ClientNoise",
    "ProtocolError",
    "Step",
    "TamperedShare",
    "TooFewParties",
    "bits_for_noise",
    "bounded_rounding",
    "client_noise",
    "clipped",
    "cohort_epsilon",
    "discrete_gaussian",
    "discrete_gaussian_zcdp",
    "distributed_epsilon",
    "equally_weighted",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_noise",
    "integer_grid",
    "least_noise",
    "mean_over",
    "private_sum",
    "qualify",
    "rdp_epsilon",
    "round_bounded",
    "sampled_rdp",
    "secure_round",
    "secure_setting",
    "secure_sum",
    "skellam",
    "skellam_rdp",
    "summed_power_step",
]
