# SPDX-License-Identifier: Apache-2.0
"""Nothing outside a family's own folder takes its facts for granted: its names and its numbers."""

import io
import re
import tokenize
from pathlib import Path

import pytest

import svd_vlm_ros
from svd_vlm_ros.models.registry import model_types

PACKAGE = Path(svd_vlm_ros.__file__).parent
# Names count wherever they stand, numbers in code and in strings that are no docstrings: a
# docstring may say for which sizes something was measured.
NAMES = re.compile(r"\bCLIP\w*|\bLlama\w*|\bCLS\b|\blayer -2\b|<image>")
NUMBERS = re.compile(r"\b(576|336)\b|\b24 ?x ?24\b|\b24, 24\b")
ROOMS = {f"models/{model_type}/": "the family's own room" for model_type in model_types()}
ALLOWED = {
    **ROOMS,
    "scout/": "the embedded checkpoint is a LLaVA-1.5, made and trained there",
    "export/": "its writers are of architectures, as a family's room is",
    "planning/": "published constants and the sizes of published models",
    "evaluation/": "the papers' tables, prompts and budgets",
    "bench/selectors.py": "the selectors' own time is published for the features of LLaVA-1.5",
    "bench/report.py": "the title of that table",
    "cli/": "examples and defaults that name the product",
    "selection/relevance.py": "the option 'clip' and its checkpoint are what users write",
    "selection/trim.py": "the paper's own words",
    "selection/inside/sparsevlm.py": "the paper's table of 576 tokens",
}


def found(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8")
    lines = [
        f"{number}: {match[0]}"
        for number, line in enumerate(source.splitlines(), 1)
        if (match := NAMES.search(line))
    ]
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and before in (
            *(tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING),
        )
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
        if token.type != tokenize.COMMENT and not docstring and NUMBERS.search(token.string):
            lines.append(f"{token.start[0]}: {token.string[:60]}")
    return lines


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def test_no_module_takes_a_familys_facts_for_granted():
    wrong = {
        name: lines
        for name in modules()
        if not name.startswith(tuple(ALLOWED)) and (lines := found(PACKAGE / name))
    }
    assert wrong == {}


@pytest.mark.parametrize("start", [start for start in ALLOWED if start not in ROOMS])
def test_every_exception_is_needed(start):
    assert any(found(PACKAGE / name) for name in modules() if name.startswith(start))


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("size = 576\n", True),
        ('x = "24x24"\n', True),
        ("# as CLIP has it\n", True),
        ('def f():\n    """In 576 steps."""\n', False),
        ('def f():\n    """What CLS sees."""\n', True),
        ("llava = 577\n", False),
    ],
)
def test_what_counts(tmp_path, line, is_found):
    (tmp_path / "some.py").write_text(line)
    assert bool(found(tmp_path / "some.py")) == is_found
