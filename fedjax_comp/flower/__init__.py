"""Messages of a Flower app, compressed: `pip install 'fedjax_comp[flower]'`.

    link = flower_link(uplink, downlink, like, seed=0)      # the same at both ends
    app = ClientApp(mods=[compressing_mod(link)])           # the app stays as it is
    strategy = compressed(FedAvg(), link)                   # any strategy

`link` is made of bytes alone and needs no Flower; `client_mod` and `strategy` put its
bytes into Flower's records.
"""

from fedjax_comp.flower.client_mod import compressing_mod
from fedjax_comp.flower.link import FlowerLink, Refused, flower_link
from fedjax_comp.flower.strategy import compressed

__all__ = ["FlowerLink", "Refused", "compressed", "compressing_mod", "flower_link"]
