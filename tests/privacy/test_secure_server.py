"""The server believes no message that does not fit what it has seen before."""

import pytest

from fedjax_comp.privacy import secure_client, secure_server
from fedjax_comp.privacy.errors import ProtocolError
from fedjax_comp.privacy.messages import (
    ENVELOPE_BYTES,
    PUBLIC_BYTES,
    read_places,
    read_records,
    write_records,
)
from fedjax_comp.privacy.shares import SHARE_BYTES
from tests.privacy.test_secure_sum import Round, setting_of, vectors_of

SETTING = setting_of(4, 3)


@pytest.fixture(scope="module")
def sent():
    return Round(SETTING, vectors_of(SETTING))


def test_nobody_speaks_for_another_in_the_roster(sent):
    keys = read_records(sent.roster, PUBLIC_BYTES, parties=4)
    absent = {place: keys[place] for place in (1, 3, 4)}
    forged = {**absent, 1: keys[1] + write_records({2: keys[2]})}
    for wrong in (forged, {**absent, 1: b""}):
        with pytest.raises(ProtocolError, match="keys of party 1 in 64 bytes"):
            secure_server.make_roster(SETTING, wrong)
    made = secure_server.make_roster(SETTING, absent)
    assert read_records(made, PUBLIC_BYTES, parties=4) == absent


def test_everybody_has_to_write_to_everybody_else(sent):
    envelopes = {place: message for place, (_, message) in sent.shared.items()}
    own = read_records(envelopes[2], ENVELOPE_BYTES, parties=4)
    fewer = {place: box for place, box in own.items() if place != 3}
    for wrong in (fewer, {**own, 2: own[1]}):
        with pytest.raises(ProtocolError, match="Party 2 did not write to everybody"):
            secure_server.route_envelopes(
                SETTING, sent.roster, {**envelopes, 2: write_records(wrong)}
            )


def test_an_answer_is_about_every_party_and_from_one_that_is_summed(sent):
    vectors = {place: sent.masked[place][1] for place in (1, 2, 3)}
    masked_sum, places = secure_server.add_masked(SETTING, vectors)
    summed = read_places(places, parties=4)
    answers = {
        place: secure_client.answer(SETTING, sent.masked[place][0], places)
        for place in summed
    }

    def unmask(changed):
        return secure_server.unmask(
            SETTING, sent.roster, frozenset(range(1, 5)), summed, masked_sum, changed
        )

    expected = sum(vectors_of(SETTING)[:3])
    assert unmask(answers).tolist() == expected.tolist()
    told = read_records(answers[2], SHARE_BYTES, parties=4)
    fewer = write_records({p: share for p, share in told.items() if p != 4})
    with pytest.raises(ProtocolError, match="Party 2 did not answer for each"):
        unmask({**answers, 2: fewer})
    with pytest.raises(ProtocolError, match="Party 4 did not answer for each"):
        unmask({1: answers[1], 2: answers[2], 4: answers[3]})
