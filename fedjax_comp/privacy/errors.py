"""The errors of a secure sum: rounds that cannot go on, and whose fault that is."""


class ProtocolError(Exception):
    """A message that no honest party would have sent."""


class TooFewParties(ProtocolError):
    """Fewer parties than the threshold are left: nothing may be unmasked."""


class TamperedShare(ProtocolError):
    """A share that is not what its sender sealed for this receiver in this round."""
