"""What a run is simulated on: links, devices, costs, and what the server waits for."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_comp.network.clock import Policy
from fedjax_comp.network.control import Controller, Ladder
from fedjax_comp.network.devices import NOTHING, SERVER, Cost, Device
from fedjax_comp.network.links import Link
from fedjax_comp.network.sharing import ServerLink


class Codec(NamedTuple):
    """Costs of a link's messages.

    Attributes:
      encode: of each rung, one where there is no ladder.
      decode: of each rung.
    """

    encode: tuple[Cost, ...] = (NOTHING,)
    decode: tuple[Cost, ...] = (NOTHING,)


class Setting(NamedTuple):
    """What a run is simulated on.

    Attributes:
      links: of each client, `[K]`.
      devices: of each client, `[K]`.
      policy: what the server waits for.
      train_example: cost of one example forward and backward.
      uplink: costs of the clients' messages.
      downlink: costs of the server's.
      uplink_bytes: of a client's message; None when it depends on values.
      downlink_bytes: of the server's to one client; likewise.
      server: the server's device.
      controller: sets budgets; None for none.
      ladder: what the controller's budgets choose from.
      seed: of lost packets.
      server_link: what passes at the server in all.
    """

    links: Sequence[Link]
    devices: Sequence[Device]
    policy: Policy = Policy()
    train_example: Cost = NOTHING
    uplink: Codec = Codec()
    downlink: Codec = Codec()
    uplink_bytes: int | None = None
    downlink_bytes: int | None = None
    server: Device = SERVER
    controller: Controller | None = None
    ladder: Ladder | None = None
    seed: int = 0
    server_link: ServerLink = ServerLink()
