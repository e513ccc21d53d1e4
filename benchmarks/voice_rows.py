"""The rows of a voice detector with state and of a reader of words in 4 bits, in their closed loops."""

from __future__ import annotations

from benchmarks.measuring import FILES, Figure, Options, run_job, say

# MIT, and Apache-2.0.
_DETECTOR, _READER = "silero-vad==6.2.3", "g2p-en==2.1.0"
_LEAST_DB = 15.0


def voice(options: Options) -> list[Figure]:
    """Silero's voice detector, its int8 states fed back to it; g2p-en's GRU in 4 bits, phoneme by phoneme."""
    folder = FILES / "voice"
    folder.mkdir(parents=True, exist_ok=True)
    for wheel, file in (
        (_DETECTOR, "silero_vad/data/silero_vad_16k.safetensors"),
        (_READER, "g2p_en/checkpoint20.npz"),
    ):
        run_job("wheel_files", wheel=wheel, files=[file], out=folder)
    say("voice detector")
    found = run_job("voice_detector", weights=folder / "silero_vad_16k.safetensors")
    auto, dynamic, plain = (found[key] for key in ("auto", "dynamic", "int8"))
    note = f"dynamic {dynamic['sqnr_db']:.1f}, plain int8 {plain['sqnr_db']:.1f} dB; {auto['bytes']:,} bytes (dynamic "
    note += f"{dynamic['bytes']:,}); {found['chunks']:,} chunks, {found['speech']:.0%} of them speech"
    heard = "Silero VAD, int8, improve=auto, states fed back"
    say("reader of words")
    read = run_job("word_reader", weights=folder / "checkpoint20.npz", words=600)
    lost = read["min-max"]["error"]
    note_read = f"min-max {lost:.2%}, weights4 {read['weights4']['error']:.2%}; {read['phonemes']:,} phonemes of "
    note_read += f"{read['words']:,} words; {read['repaired']['bytes']:,} bytes"
    return [
        Figure(f"{heard}: SQNR", auto["sqnr_db"], "dB", at_least=max(_LEAST_DB, dynamic["sqnr_db"]), note=note),
        Figure(f"{heard}: decisions as float's", 100 * auto["agrees"], "%"),
        Figure(
            "g2p-en, weights4, GPTQ and scales: phonemes unlike float's",
            100 * read["repaired"]["error"],
            "%",
            at_most=100 * lost / 2,
            note=note_read,
        ),
    ]
