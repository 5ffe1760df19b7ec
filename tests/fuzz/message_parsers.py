"""Readers of what is sent and kept: messages, the log's texts, saved models."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedjax_comp import models
from fedjax_comp.audit import entry, note, proof
from fedjax_comp.audit.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.compress import chain, entropy_coded, identity, qsgd, top_k
from fedjax_comp.flower.link import Refused, Stamp, flower_link, seal, unseal
from fedjax_comp.saved_model import ARCHITECTURE, PARAMETERS, load_model, save_model
from fedjax_comp.wire import message
from fedjax_comp.wire.errors import WireError
from tests.audit.logs import SIGNER, make_entry
from tests.fuzz.mutations import (
    Mutate,
    inside,
    mutate_bytes,
    mutate_json,
    mutate_text,
)
from tests.fuzz.parser import Parser, in_text, scratch_folder
from tests.wire.test_message import PAYLOADS


def messages() -> dict[str, Parser]:
    def parser(payload: Any, mutate: Mutate) -> Parser:
        def parse(data: bytes) -> Any:
            read = message.from_bytes(data, payload)
            message.pack_body(read)  # the fields' own checks accept it
            return read

        return Parser(message.to_bytes(payload), parse, (WireError,), mutate)

    forged = inside(message.unframe, message.frame)
    return {
        f"{kind} {name}": parser(payload, mutate)
        for kind, mutate in (("message", mutate_bytes), ("forged message", forged))
        for name, payload in PAYLOADS.items()
    }


def flower() -> dict[str, Parser]:
    link = flower_link(
        chain(top_k(0.3), qsgd(8), entropy_coded()), identity(), np.ones(40, np.float32)
    )
    stamp = Stamp("update", 1, 2, 3)
    data, _ = link.answer(
        stamp, np.linspace(-1, 1, 40, dtype=np.float32), link.uplink_sender
    )

    def parse(sealed: bytes) -> Any:
        return link.read(stamp, unseal(sealed, stamp), link.uplink_receiver)

    def sealed(message: bytes) -> bytes:
        return seal(message, stamp)

    forged = inside(lambda message: unseal(message, stamp), sealed)
    return {
        f"{kind} in Flower": Parser(sealed(data), parse, (Refused,), mutate)
        for kind, mutate in (("message", mutate_bytes), ("forged message", forged))
    }


def log() -> dict[str, Parser]:
    leaves = [leaf_hash(bytes([i])) for i in range(9)]
    checkpoint = Checkpoint("example.com/log", 9, leaf_hash(b"x"))
    signed = sign_checkpoint(checkpoint, SIGNER)
    inclusion = proof.format_inclusion(proof.prove_inclusion(leaves, 4, signed))
    request = proof.format_request(proof.make_request(leaves, 5, signed))
    texts = {
        "note": (note.format_note(signed), note.parse_note),
        "verifier": (note.format_verifier(SIGNER.verifier), note.parse_verifier),
        "signer": (note.format_signer(SIGNER), note.parse_signer),
        "checkpoint": (signed.text, parse_checkpoint),
        "inclusion proof": (inclusion, proof.parse_inclusion),
        "witness request": (request, proof.parse_request),
    }
    line = entry.format_entry(make_entry(3))
    return {
        name: Parser(valid.encode(), in_text(parse), (note.NoteError,), mutate_text)
        for name, (valid, parse) in texts.items()
    } | {"entry": Parser(line, entry.parse_entry, (ValueError,), mutate_json)}


def saved_model() -> dict[str, Parser]:
    folder = scratch_folder("model")
    module = models.mlp(2)(2)
    x = jax.ShapeDtypeStruct((1, 3), "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    save_model(
        folder, module, jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    )
    valid = {name: (folder / name).read_bytes() for name in (ARCHITECTURE, PARAMETERS)}

    def parse(changed: str, *, sign: bool) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            files = {**valid, changed: data}
            if sign:
                files[ARCHITECTURE] = _signed(files[ARCHITECTURE], files[PARAMETERS])
            for name, content in files.items():
                (folder / name).write_bytes(content)
            return load_model(folder)

        return read

    kinds = ((ARCHITECTURE, mutate_json), (PARAMETERS, mutate_bytes))
    return {
        f"{'forged ' if sign else ''}{name}": Parser(
            valid[name], parse(name, sign=sign), (ValueError,), mutate
        )
        for sign in (False, True)
        for name, mutate in kinds
    }


def _signed(architecture: bytes, data: bytes) -> bytes:
    """With the SHA-256 of what the files hold, so that the reader behind it is met."""
    try:
        told = json.loads(architecture)
        told.pop("sha256", None)
        text = json.dumps(told, sort_keys=True).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return architecture
    told["sha256"] = hashlib.sha256(text + b"\n" + data).hexdigest()
    return json.dumps(told).encode()
