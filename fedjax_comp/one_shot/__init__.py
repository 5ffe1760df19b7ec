"""Learning with one exchange: no rounds, and so no `Algorithm`.

Open `data_collaboration.py` for representations that are sent once, and
`data_dispatch.py` for examples that are sent to the machine that learns from them.
"""
