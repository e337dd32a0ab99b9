"""A model's card as parts of text: whatever a platform writes there, it stays text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.pages.card import blocks_of

CARD = """\
# Model 1a2b

## Privacy

Protected: **one customer**.
All orders.

| A person at | epsilon |
| --- | --- |
| one shop | 1.20 |

| | |
| --- | --- |
| Plan | spring |
"""


def test_headings_paragraphs_and_tables_are_told_apart():
    found = [(block.kind, block.level, block.text, block.rows) for block in blocks_of(CARD)]
    assert found == [
        ("heading", 1, "Model 1a2b", ()),
        ("heading", 2, "Privacy", ()),
        ("text", 0, "Protected: one customer. All orders.", ()),
        ("table", 0, "", (("A person at", "epsilon"), ("one shop", "1.20"))),
        ("table", 0, "", (("", ""), ("Plan", "spring"))),
    ]


def test_a_table_right_after_a_text_begins_a_part_of_its_own():
    assert [block.kind for block in blocks_of("text\n| a | b |\nmore")] == ["text", "table", "text"]


@given(st.text(max_size=300))
def test_any_text_is_a_list_of_parts_of_text(card):
    for block in blocks_of(card):
        texts = [block.text, *(cell for row in block.rows for cell in row)]
        assert all(isinstance(text, str) for text in texts)
