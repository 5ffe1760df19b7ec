"""Flags that every experiment has; an experiment adds its own to the same object.

Each experiment owns a `flags.FlagValues`, so that several can be imported at once. It
removes the common flags that it cannot honour (`without`): the command then refuses
them in one line, and `--help` does not show them.
"""

from absl import flags

from fedjax_comp.keys import MAX_SEED

AUDITS = ("audit_every", "audit_log", "audit_key", "run_id")
"""Flags of an experiment whose algorithms keep their messages."""

CONDITIONS = (
    "network",
    "devices",
    "deadline_seconds",
    "report_goal",
    "training_flops",
    "costs",
    "server_up_megabits",
    "server_down_megabits",
)
"""Flags of an experiment in which every message is some client's or to a client."""

PROCESSES = ("coordinator_address", "num_processes", "process_id")
"""Flags of an experiment whose runs several processes can share."""


def run_flags(**defaults: object) -> flags.FlagValues:
    """The flags of whatever leaves a run directory, be it training or not.

    Args:
      **defaults: default values by flag name, where they differ from those below.

    Returns:
      A new `FlagValues` with the flags defined and not yet parsed.

    Raises:
      AttributeError: for a default whose flag does not exist.
    """
    values = flags.FlagValues()
    text, whole, switch = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool
    text(
        "workdir", None, "Directory of the run (made, or resumed).", flag_values=values
    )
    text(
        "data_dir",
        None,
        "Directory of data prepared in TFDS format.",
        flag_values=values,
    )
    text(
        "raw_dir",
        None,
        "Directory of raw files (or FEDJAX_COMP_RAW_DATA).",
        flag_values=values,
    )
    whole(
        "seed",
        0,
        "Seed of everything random.",
        flag_values=values,
        lower_bound=0,
        upper_bound=MAX_SEED,
    )
    # None and not empty, so that directories from before this flag can be resumed.
    flags.DEFINE_multi_string(
        "import",
        None,
        "A module whose factories are names in expressions, e.g. my_package.mine; may "
        "be repeated.",
        flag_values=values,
    )
    switch("quick", False, "A short run, to see it work.", flag_values=values)
    switch("progress", True, "Show progress on standard error.", flag_values=values)
    switch("help", False, "Show the flags and exit.", flag_values=values)
    for name, value in defaults.items():
        values.set_default(name, value)
    return values


def training_flags(**defaults: object) -> flags.FlagValues:
    """The flags of all experiments that train a model, whoever holds the data.

    Args:
      **defaults: default values by flag name, where they differ from those below.

    Returns:
      A new `FlagValues` with the flags defined and not yet parsed.

    Raises:
      AttributeError: for a default whose flag does not exist.
    """
    values = run_flags()
    text, whole, number, switch = (
        flags.DEFINE_string,
        flags.DEFINE_integer,
        flags.DEFINE_float,
        flags.DEFINE_bool,
    )
    text("model", "mlp(200, 200)", "The model, as a Python call.", flag_values=values)
    whole(
        "batch_size",
        10,
        "Local batch size, B (0: all).",
        flag_values=values,
        lower_bound=0,
    )
    text(
        "client_optimizer",
        "sgd(0.1)",
        "Optax optimizer of the clients.",
        flag_values=values,
    )
    whole("num_rounds", 100, "Rounds.", flag_values=values, lower_bound=1)
    number(
        "target_accuracy", None, "Test accuracy to count rounds to.", flag_values=values
    )
    switch(
        "stop_at_target", False, "Stop when the target is reached.", flag_values=values
    )
    text("uplink", "identity()", "Compressor of the uplink.", flag_values=values)
    text("downlink", "identity()", "Compressor of the downlink.", flag_values=values)
    text("execution", "auto()", "How a cohort is run.", flag_values=values)
    whole(
        "eval_batch_size",
        500,
        "Test examples in a batch.",
        flag_values=values,
        lower_bound=1,
    )
    whole(
        "eval_every",
        1,
        "Rounds between evaluations.",
        flag_values=values,
        lower_bound=1,
    )
    whole(
        "checkpoint_every",
        50,
        "Rounds between checkpoints (0: none).",
        flag_values=values,
        lower_bound=0,
    )
    whole(
        "audit_every",
        0,
        "Rounds between audits (0: none).",
        flag_values=values,
        lower_bound=0,
    )
    # None and not False, so that directories from before this flag can be resumed.
    switch(
        "audit_log",
        None,
        "Keep a tamper-evident log of every message in DIR/audit.",
        flag_values=values,
    )
    text(
        "audit_key",
        None,
        "File with the key that signs the log (made in DIR/audit when not given).",
        flag_values=values,
    )
    text(
        "run_id",
        None,
        "Id of the run in its log's name (made from the flags when not given).",
        flag_values=values,
    )
    define_conditions(values)
    define_processes(values)
    for name, value in defaults.items():
        values.set_default(name, value)
    return values


def define_processes(values: flags.FlagValues) -> None:
    """Defines the flags of a run by several processes (`fedjax_comp.distributed`)."""
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of the first of several processes; all get the same flags but for "
        "--process_id. SLURM and TPU pods tell it themselves.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "How many processes share the work (1: this one alone, also in a cluster).",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Which of them this is; the first, 0, alone reads and writes --workdir.",
        flag_values=values,
        lower_bound=0,
    )


def define_conditions(values: flags.FlagValues) -> None:
    """Defines the flags of simulated links and devices; none are simulated at first."""
    flags.DEFINE_string(
        "network",
        "",
        "Links to time the run on, e.g. lognormal() or recorded() (empty: none).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "devices",
        "",
        "Devices to time the run on, e.g. mixed() (empty: they take no time).",
        flag_values=values,
    )
    flags.DEFINE_float(
        "deadline_seconds",
        None,
        "Clients that would arrive later in a round are left out of it.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "report_goal",
        None,
        "Arrivals that close a round, out of the cohort (over-selection).",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_float(
        "training_flops",
        None,
        "FLOPs of training on one example (XLA's count of the loss-gradient when not "
        "given; 6 a parameter in directories from before it was counted).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "costs",
        None,
        "File with the costs of messages and training that another run has measured: "
        "the costs.json (of adaptive: ladder.json) in its directory.",
        flag_values=values,
    )
    for name, way in (("up", "from"), ("down", "to")):
        flags.DEFINE_float(
            f"server_{name}_megabits",
            None,
            f"Mbit/s that pass at the server in all {way} the cohort, shared fairly by "
            "those who use it at once (no bound when not given).",
            flag_values=values,
        )


def common_flags(**defaults: object) -> flags.FlagValues:
    """The flags shared by all experiments that train a federation.

    Args:
      **defaults: default values by flag name, where they differ from those below.

    Returns:
      A new `FlagValues` with the flags defined and not yet parsed.

    Raises:
      AttributeError: for a default whose flag does not exist.
    """
    values = training_flags()
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text(
        "dataset",
        "digits",
        "Data set: digits, mnist, fashion_mnist, ...",
        flag_values=values,
    )
    text(
        "partition", "iid()", "How examples are split over clients.", flag_values=values
    )
    whole(
        "num_clients",
        100,
        "Clients in the population, K.",
        flag_values=values,
        lower_bound=1,
    )
    whole(
        "cohort_size", 10, "Clients in a round, C.", flag_values=values, lower_bound=1
    )
    # None and not "device", so that directories from before this flag can be resumed.
    flags.DEFINE_enum(
        "client_store",
        None,
        ["device", "disk"],
        "Where clients' states (error-feedback memory, ...) are between their rounds: "
        "on the device (the default), all K of them, or on disk in DIR/clients.rows, "
        "where only those who have taken part take space and a cohort alone takes "
        "memory. The results are the same, bit for bit. Of several processes each has "
        "its own clients'.",
        flag_values=values,
    )
    whole("local_epochs", 1, "Local epochs, E.", flag_values=values, lower_bound=1)
    text(
        "server_optimizer",
        "sgd(1.0)",
        "Optax optimizer of the server.",
        flag_values=values,
    )
    for name, value in defaults.items():
        values.set_default(name, value)
    return values


def without(values: flags.FlagValues, *names: str) -> flags.FlagValues:
    """The same flags, but for those that an experiment cannot honour.

    Args:
      values: not yet parsed; changed.
      *names: the flags to take away.

    Returns:
      `values`.

    Raises:
      AttributeError: for a flag that does not exist.

    >>> "seed" in without(run_flags(), "seed")
    False
    """
    for name in names:
        delattr(values, name)
    return values


def apply_quick(values: flags.FlagValues, **quick: object) -> None:
    """With `--quick`, gives flags that were not set by hand their quick values."""
    if not values.quick:
        return
    for name, value in quick.items():
        if not values[name].present:
            values[name].value = value


def as_dict(values: flags.FlagValues) -> dict[str, object]:
    """Every flag's value by name, `help` apart."""
    return {
        name: value
        for name, value in values.flag_values_dict().items()
        if name != "help"
    }
