"""The order of a ledger: fixed in its first entry, kept when the budget is raised."""

from __future__ import annotations

import hashlib
import json

import pytest

from cardionets_core.privacy.accounting import Charge, epsilon_rdp
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.ledger_file import head_file
from tests.cardionets_core.privacy.ledgers import hospital, key, refused, with_charges
from tests.cardionets_core.privacy.test_order import TWELVE_SUMS


def first_body(path):
    return json.loads(path.read_text().splitlines()[0])["body"]


def rewritten(path, change):
    """Write a ledger of one entry whose body is changed, with a hash that fits."""
    body = first_body(path)
    change(body)
    text = {"sort_keys": True, "separators": (",", ":")}
    digest = hashlib.sha256(json.dumps(body, **text).encode()).hexdigest()
    path.write_text(json.dumps({"body": body, "hash": digest}, **text) + "\n")
    head_file(path).write_text(digest + "\n")


def test_it_stands_in_the_first_entry_and_is_no_matter_of_the_yaml(tmp_path):
    made = hospital(tmp_path)
    made.init(2.5)
    assert first_body(made.path)["order"] == 2.5
    for settings in (made.settings, made.having(epsilon=5.0, delta=1e-7).settings):
        with Ledger.read(settings) as ledger:
            assert ledger.order == ledger.terms.order == 2.5


def test_the_gate_lets_in_what_fits_at_that_order_and_not_what_fits_at_another(tmp_path):
    """Eleven of twelve sums of Renyi DP alpha / 10; the best order would let in the twelfth."""
    made = hospital(tmp_path)
    made.init()
    for number, charge in enumerate(TWELVE_SUMS[:11]):
        made.charged(number, charge)
    assert epsilon_rdp(TWELVE_SUMS, 1e-5) < 8
    with refused("privacy_spent", match="would make it 8"):
        made.charged(11, TWELVE_SUMS[11])


def test_a_raised_budget_keeps_the_order(tmp_path):
    made = with_charges(tmp_path)
    with Ledger.read(made.settings) as ledger:
        before = ledger.order, ledger.terms
        ledger.raise_budget(30.0)
    with made.having(epsilon=30.0).opened() as ledger:
        assert (ledger.order, ledger.terms, ledger.recorded) == (*before, 30.0)
        ledger.reserve(key(9), Charge(1.0, 1.0, 5))
        assert ledger.report().order == before[0]


def test_an_edited_order_breaks_the_chain(tmp_path):
    made = with_charges(tmp_path)
    text = made.path.read_text()
    assert text.count('"order":3.1') == 1
    made.path.write_text(text.replace('"order":3.1', '"order":3.9'))
    with refused(match=r"line 1 was changed"):
        made.count()


def test_a_ledger_of_before_there_was_an_order_is_refused_with_what_to_do(tmp_path):
    made = hospital(tmp_path)
    made.init()
    rewritten(made.path, lambda body: (body.pop("order"), body.update(format=1)))
    with refused(match=r"not a ledger of this version .*cannot be fixed after.*Use the version"):
        made.count()


@pytest.mark.parametrize("order", [1.0, 0.0, -3.0, 513.0, "two", None])
def test_an_order_that_is_none_is_refused(tmp_path, order):
    made = hospital(tmp_path)
    made.init()
    rewritten(made.path, lambda body: body.update(order=order))
    with refused(match="not a ledger of this version"):
        made.count()


def test_a_budget_in_which_the_order_leaves_no_room_is_told(tmp_path):
    made = hospital(tmp_path)
    made.init()
    with refused("privacy_spent", match=r"at its order 3.1 the first charge alone counts 4.55"):
        made.having(epsilon=4.0).charged(1)
