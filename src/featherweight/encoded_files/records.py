"""What became of weights that were stored encoded, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featherweight import tflite
from featherweight.device_code.arena import Arena
from featherweight.errors import listed
from featherweight.graph import Model


@dataclass(frozen=True)
class EncodedTensor:
    """What became of one weight.

    Attributes:
        name: the constant's.
        op: the operator that reads it.
        plain_bytes: of its values.
        stored_bytes: of what stands in their place (a part of tables that several have); the same where it stays
            plain.
        coding: of `tflite.codings.CODINGS`; empty where it stays plain.
        reason: why it stays plain.
    """

    name: str
    op: str
    plain_bytes: int
    stored_bytes: int
    coding: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A model with encoded weights, what became of each, and what decoding costs.

    Attributes:
        tensors: a row for each weight.
        file_bytes: of the whole file, before and now.
        scratch_bytes: RAM for the decoded weights of one operator, the most that any has.
        decoded_bytes: what is decoded in every inference, each operator once.
        arena: the interpreter's memory before and now, by real runs; None where it is not installed.
        unverified: why the integers were not compared with the plain file's in the interpreter; empty where they are
            equal, bit for bit.
    """

    model: Model
    tensors: tuple[EncodedTensor, ...]
    file_bytes: tuple[int, int]
    scratch_bytes: int
    decoded_bytes: int
    arena: tuple[Arena, Arena] | None = None
    unverified: str = ""

    def __repr__(self) -> str:
        encoded = sum(bool(row.coding) for row in self.tensors)
        return (
            f"Model with encoded weights: {encoded} of {len(self.tensors)}\n"
            f"  bytes of the file  {self.file_bytes[0]:,} → {self.file_bytes[1]:,}\n"
            f"  decoded            {self.decoded_bytes:,} bytes in every inference, {self.scratch_bytes:,} at a time\n"
            f"{self.model!r}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to say: the costs, and whether the integers were compared."""
        before, after = self.file_bytes
        codings = [row.coding for row in self.tensors if row.coding]
        counts = listed(f"{codings.count(coding)} as {coding}" for coding in dict.fromkeys(codings))
        if not codings:
            return (f"no weight is encoded: none would make the file of {before:,} bytes much smaller",)
        ram = f"up to {self.scratch_bytes:,} bytes of RAM"
        if self.arena is not None:
            sizes = [arena.total for arena in self.arena]
            ram = f"{ram} (arena in TFLite Micro: {sizes[0]:,} → {sizes[1]:,} bytes)"
        proof = f"not compared: {self.unverified}" if self.unverified else "bit for bit equal in TFLite Micro"
        return (
            f"{len(codings)} of {len(self.tensors)} weights are encoded ({counts}): {before:,} → {after:,} bytes, "
            f"{after / before:.2f} of the plain file; {proof}",
            f"encoded weights cost {ram}, and the time to decode {self.decoded_bytes:,} bytes in every inference",
        )

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)
