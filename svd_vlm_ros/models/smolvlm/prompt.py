# SPDX-License-Identifier: Apache-2.0
"""The text of a conversation, and the text around the tiles of an image."""

from __future__ import annotations

BORDER = "<fake_token_around_image>"  # in front of each tile, and behind the last one
WHOLE = "<global-img>"  # the name of the tile that shows the whole image

# A name for each turn, and a blank behind its colon unless the image comes first.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}:"
    "{% if message.content[0].type != 'image' %}{{ ' ' }}{% endif %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<image>' }}{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '<end_of_utterance>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def tile_name(row: int, column: int) -> str:
    """The name of a tile; rows and columns count from 0, names from 1."""
    return f"<row_{row + 1}_col_{column + 1}>"


def marked_text(rows: int, columns: int, image_token: str) -> str:
    """What the prompt has for an image, with the image token once for each tile.

    Args:
        rows, columns: of the tiles beside the one that shows the whole image; 0, 0: none.
        image_token: for a tile.
    """
    lines = [
        "".join(f"{BORDER}{tile_name(row, column)}{image_token}" for column in range(columns))
        for row in range(rows)
    ]
    cut = "".join(f"{line}\n" for line in lines) + "\n" if rows else ""
    return f"{cut}{BORDER}{WHOLE}{image_token}{BORDER}"
