from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from cohortium.report.svg import decimal, element, path, share


@given(st.text(), st.text())
def test_any_text_makes_a_well_formed_element(text: str, value: str) -> None:
    made = ElementTree.fromstring(element("text", text, data_of=value))
    assert not list(made)
    assert set(made.attrib) == {"data-of"}


@given(
    st.text(st.characters(blacklist_categories=["Cc", "Cs"], blacklist_characters="\uffff\ufffe"))
)
def test_text_is_kept(text: str) -> None:
    assert (ElementTree.fromstring(element("text", text)).text or "") == text


def test_markup_is_nested_and_text_is_not() -> None:
    made = element("g", element("title", "<b>"), "<i>", x=None)
    assert str(made) == "<g><title>&lt;b&gt;</title>&lt;i&gt;</g>"
    assert str(element("g", Markup(""))) == "<g/>"


@given(st.floats(-1e6, 1e6))
def test_decimals_are_short_and_close(value: float) -> None:
    text = decimal(value)
    assert abs(float(text) - value) <= 0.0051
    assert "e" not in text
    assert not text.endswith((".0", "-0"))


def test_shares_and_paths() -> None:
    assert share(0.12345) == "12.35%" or share(0.12345) == "12.34%"
    assert path([(0, 0), (1, 2)], closed=True) == "M0 0L1 2Z"
