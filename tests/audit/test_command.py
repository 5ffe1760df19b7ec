"""The command's five verbs and their exit codes: 0 fine, 1 a fault, 2 a mistake."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedjax_comp.audit.command import main
from fedjax_comp.audit.configuration import origin_of
from fedjax_comp.audit.log import Log
from fedjax_comp.audit.note import format_verifier
from tests.audit.logs import ORIGIN, SIGNER, make_lines, make_run

KEY = format_verifier(SIGNER.verifier)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", make_lines(40))


def change(run):
    path = run / "audit" / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"client 7", b"client 8", 1))


def test_verify(run, capsys):
    assert main(["verify", str(run), f"--key={KEY}"]) == 0
    assert "fine: 40 of 40 entries" in capsys.readouterr().out
    change(run)
    assert main(["verify", str(run), f"--key={KEY}"]) == 1
    assert "FAULT: entry 7 (round 1, uplink, client 8" in capsys.readouterr().out
    (run / "audit" / "log.jsonl").unlink()
    assert main(["verify", str(run), f"--key={KEY}"]) == 1
    assert "log.jsonl is missing" in capsys.readouterr().out


def test_verify_without_a_key_says_what_that_is_worth(run, capsys):
    assert main(["verify", str(run)]) == 0
    assert "the key is the directory's own" in capsys.readouterr().out


def test_prove_an_entry(run, tmp_path, capsys):
    assert main(["prove", str(run), "--entry=12"]) == 0
    proof, line = tmp_path / "proof", tmp_path / "line"
    proof.write_text(capsys.readouterr().out)
    line.write_bytes((run / "audit" / "log.jsonl").read_bytes().split(b"\n")[12])
    verify = ["verify", f"--proof={proof}", f"--entry={line}", f"--key={KEY}"]
    assert main(verify) == 0
    line.write_bytes(line.read_bytes().replace(b"client 2", b"client 1"))
    assert main(verify) == 1


def test_a_proof_has_the_signatures_of_witnesses(run, tmp_path, capsys):
    proof, line = tmp_path / "proof", tmp_path / "line"
    lines = (run / "audit" / "log.jsonl").read_bytes().split(b"\n")
    verify = ["verify", f"--proof={proof}", f"--entry={line}", f"--key={KEY}"]
    for name in ("one", "two"):
        key = tmp_path / name
        main(["keygen", str(key), f"--key_name={name}", "--witness"])
        own = [f"--key={key}", f"--log_key={KEY}", f"--state={tmp_path / name}-state"]
        assert main(["witness", str(run), *own]) == 0
        verify.append(f"--witness_key={key}.pub")

    def proved(entry):
        line.write_bytes(lines[entry])
        capsys.readouterr()
        assert main(["prove", str(run), f"--entry={entry}"]) == 0
        text, told = capsys.readouterr()
        proof.write_text(text)
        remarks.append(told)
        return main(verify)

    remarks = []
    assert proved(12) == 0
    # Entries that no witness has seen are proved without one; the others as before.
    more = make_lines(60)[39:]
    lines[39:] = more
    with Log(run / "audit", SIGNER, ORIGIN) as log:
        log.rewind(log.size)
        log.append(more[:10])
        log.checkpoint()
    assert proved(12) == 0
    assert remarks[0] == ""
    assert remarks[1].count("\n") == 1
    assert "of 40 entries, the last that a witness has cosigned: the" in remarks[1]
    assert "of 50, has no cosignature" in remarks[1]
    lines[40:] = more[:10]
    assert proved(45) == 1
    assert remarks[2] == ""
    assert "There is no cosignature by" in capsys.readouterr().out


def test_witness_and_its_refusal(run, tmp_path, capsys):
    key = tmp_path / "witness"
    name = "--key_name=witness.example/w"
    assert main(["keygen", str(key), name, "--witness"]) == 0
    own = [f"--key={key}", f"--log_key={KEY}", f"--state={tmp_path / 'state'}"]
    wanted = ["verify", str(run), f"--key={KEY}", f"--witness_key={key}.pub"]
    assert main(wanted) == 1
    assert main(["witness", str(run), *own]) == 0
    assert main(wanted) == 0

    fork = make_run(tmp_path / "fork", make_lines(60, salt="fork"))
    assert main(["witness", str(fork), *own]) == 1
    assert "there are two histories" in capsys.readouterr().err
    (remembered,) = (tmp_path / "state").glob("*.note")
    verify = ["verify", str(fork), f"--key={KEY}"]
    assert main(verify) == 0  # in itself it is without a fault
    assert main([*verify, f"--against={remembered}"]) == 1
    assert "SPLIT HISTORY" in capsys.readouterr().out


def test_a_cosigned_note_cut_short_is_removed_by_the_next(run, tmp_path, capsys):
    key, cosigned = tmp_path / "witness", run / "audit" / "cosigned"
    main(["keygen", str(key), "--key_name=w", "--witness"])
    own = [f"--key={key}", f"--log_key={KEY}", f"--state={tmp_path / 'state'}"]
    verify = ["verify", str(run), f"--key={KEY}", f"--witness_key={key}.pub"]
    assert main(["witness", str(run), *own]) == 0
    whole = cosigned.read_bytes()
    for kept in (b"", whole):
        for cut in (1, 20, 110, 150, 230, len(whole) - 1):
            cosigned.write_bytes(kept + whole[:-cut])
            capsys.readouterr()
            assert main(verify) == 1
            assert f"FAULT: {cosigned}, note " in capsys.readouterr().out
            assert main(["witness", str(run), *own]) == 0
            assert main(verify) == 0
            assert cosigned.read_bytes().startswith(kept)


def test_a_witness_lists_all_logs_of_a_key(run, tmp_path, capsys):
    key, name = tmp_path / "witness", origin_of(SIGNER.verifier, "another")
    other = make_run(tmp_path / "other", make_lines(30, origin=name), origin=name)
    main(["keygen", str(key), "--key_name=w", "--witness"])
    own = [f"--key={key}", f"--log_key={KEY}", f"--state={tmp_path / 'state'}"]
    assert main(["witness", str(other), *own]) == 0
    capsys.readouterr()
    assert main(["witness", "--list", *own]) == 0
    logs = tmp_path / "logs"
    out, err = capsys.readouterr()
    logs.write_text(out)
    assert f"1 logs cosigned\n  {name}: 30 entries" in err
    verify = ["verify", str(run), f"--key={KEY}", f"--against={logs}"]
    assert main(verify) == 1
    assert "none of the checkpoints from outside is of" in capsys.readouterr().out
    assert main(["witness", str(run), *own]) == 0
    capsys.readouterr()
    main(["witness", "--list", *own])
    logs.write_text(capsys.readouterr().out)
    assert main(verify) == 0
    assert f"this key also signed {name}, of 30 entries." in capsys.readouterr().out
    # A witness that cannot trust its own memory signs and lists nothing.
    for path in (tmp_path / "state").glob("*.note"):
        path.write_text(path.read_text().replace("30", "20"))
    assert main(["witness", "--list", *own]) == 2
    assert "is not what this witness keeps" in capsys.readouterr().err


def test_a_witness_that_never_sees_the_run(run, tmp_path, capsys):
    key, log_key = tmp_path / "witness", tmp_path / "log.pub"
    log_key.write_text(KEY)
    assert main(["keygen", str(key), "--key_name=w", "--witness"]) == 0
    assert main(["prove", str(run), "--old_size=0"]) == 0
    text = capsys.readouterr().out.partition("\n")[2]
    request = tmp_path / "request"
    request.write_text(text)
    own = [f"--key={key}", f"--log_key={log_key}", f"--state={tmp_path / 'state'}"]
    assert main(["witness", f"--request={request}", *own]) == 0
    with (run / "audit" / "cosigned").open("w") as file:
        file.write(capsys.readouterr().out)
    verify = ["verify", str(run), f"--key={KEY}", f"--witness_key={key}.pub"]
    assert main(verify) == 0


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["verfy"],
        ["verify"],
        ["verify", "nowhere"],
        ["verify", "RUN", "--key=nowhere"],
        ["verify", "--proof=nowhere"],
        ["verify", "RUN", "--proof=nowhere", "--entry=nowhere", f"--key={KEY}"],
        ["verify", "--proof=p", "--entry=e", f"--key={KEY}", "--against=nowhere"],
        ["verify", "RUN", "--entry=nowhere", f"--key={KEY}"],
        ["prove", "RUN"],
        ["prove", "RUN", "--entry=40"],
        ["prove", "RUN", "--old_size=41"],
        ["prove", "nowhere", "--entry=1"],
        ["witness", "RUN"],
        ["witness", "RUN", "--list", "--key=k", f"--log_key={KEY}", "--state=STATE"],
        ["replay"],
        ["replay", "nowhere"],
        ["witness", "--key=k", f"--log_key={KEY}", "--state=STATE"],
        ["keygen", "KEY"],
        ["keygen", "KEY", "--key_name=a b"],
    ],
)
def test_mistakes(run, tmp_path, argv, capsys):
    names = {"RUN": str(run), "KEY": str(tmp_path / "key"), "STATE": str(tmp_path)}
    known = [names.get(x, x) for x in argv]
    known = [x.replace("=STATE", f"={tmp_path}") for x in known]
    assert main(known) == 2
    assert capsys.readouterr().err


def test_the_module_runs(run):
    command = [sys.executable, "-m", "fedjax_comp.audit", "verify", str(run)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fine" in done.stdout


def test_a_copy_without_the_keys_still_verifies(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "audit" / "log.pub").unlink()
    assert main(["verify", str(copy), f"--key={KEY}"]) == 0
    assert main(["verify", str(copy)]) == 2
