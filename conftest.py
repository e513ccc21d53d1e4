"""The code blocks of the README and of the documents are tests: see tests/documents.py."""

from tests.documents import SYBIL

pytest_collect_file = SYBIL.pytest()
