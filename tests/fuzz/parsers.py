"""Every reader of bytes that others may have written, as one table.

`PARSERS[name]` is `(valid, parse, allowed, mutate)`. `parse` either returns, and then
what it has read is sound, or raises one of `allowed`, with one line of text.
"""

from tests.fuzz.data_parsers import data_sets
from tests.fuzz.file_parsers import network, run_directory
from tests.fuzz.message_parsers import flower, log, messages, saved_model
from tests.fuzz.parser import Parser
from tests.fuzz.report_parsers import report

PARSERS: dict[str, Parser] = {
    **messages(),
    **flower(),
    **log(),
    **saved_model(),
    **data_sets(),
    **network(),
    **run_directory(),
    **report(),
}
"""Name to reader; `data_parsers.prepared_parsers` has those of prepared data."""
