"""The repairs of weights: each adds one choice to those made before, and all layers are gone through anew.

The float weights that rounding starts from are kept beside the rounded ones, so that repairs of weights do not build
on each other's rounding, and their order makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from featherweight.errors import listed
from featherweight.repair.candidate import Candidate, Chosen, Repair, Setting
from featherweight.repair.weights.eight_bits import eight_bits
from featherweight.repair.weights.layerwise import Choices, LayerRepair, round_weights
from featherweight.repair.weights.one_scale import one_scale
from featherweight.repair.weights.places import find_places, with_own_biases
from featherweight.repair.weights.reconstruct import reconstructed


def _choosing(**choices: bool) -> Callable[[Setting, Candidate], Candidate | str]:
    """Returns what applies these choices beside those that a candidate has."""

    def apply(setting: Setting, candidate: Candidate) -> Candidate | str:
        if not setting.samples:
            return "it chooses by what layers are fed: pass calibration samples"
        start = candidate.chosen or Chosen(candidate.model, candidate.plan, Choices())
        wanted = replace(start.choices, **choices)
        found = round_weights(start.model, start.plan, setting.samples, wanted, setting.target)
        done = [layer for layer in found.layers if not layer.reason]
        if not done:
            reasons = {layer.reason for layer in found.layers}
            return f"no weight can be chosen anew: {listed(sorted(reasons)) or 'none is in integers'}"
        changed = replace(candidate, model=found.model, plan=found.plan, chosen=Chosen(start.model, start.plan, wanted))
        for note in _notes(found.layers, start.choices == Choices()):
            changed = changed.with_note(note)
        return changed

    return apply


def _notes(layers: tuple[LayerRepair, ...], is_first: bool) -> list[str]:
    """Returns what there is to say of layers, once."""
    if not is_first:
        return []
    notes = [f"weight '{layer.weight}' was rounded as it is: {layer.reason}" for layer in layers if layer.reason]
    few = [layer.note for layer in layers if layer.note]
    return notes + ([f"{len(few)} weights were chosen by few inputs: for example, {few[0]}"] if few else [])


def _reconstruct(setting: Setting, candidate: Candidate) -> Candidate | str:
    if not setting.samples:
        return "it trains blocks on samples: pass calibration samples"
    exact = candidate.chosen.model if candidate.chosen is not None else candidate.model
    if candidate.chosen is not None and candidate.chosen.choices.bias:
        exact = with_own_biases(exact, find_places(exact, candidate.chosen.plan)[0])
    model, blocks = reconstructed(candidate.model, exact, candidate.plan, setting.samples, setting.target)
    done = [block for block in blocks if not block.reason]
    reasons = [f"'{block.first}' to '{block.last}': {block.reason}" for block in blocks if block.reason]
    if not done:
        return f"no block learnt anything: {listed(reasons, 3) or 'none has a weight in integers'}"
    note = f"{len(done)} of {len(blocks)} blocks were trained"
    return replace(candidate, model=model).with_note(note + (f"; others not: {listed(reasons, 3)}" if reasons else ""))


EIGHT_BITS = Repair("eight-bits", "8 bits for the weights in 4 that cost the output most for their bytes", eight_bits)
ONE_SCALE = Repair("one-scale", "one scale for all rows of a dense weight: a smaller file", one_scale, saves=True)
WEIGHT_REPAIRS: tuple[Repair, ...] = (
    Repair("gptq", "integers that make up for each other's rounding", _choosing(gptq=True), 2),
    Repair("bias-correction", "biases that keep the mean of every channel", _choosing(bias=True)),
    Repair("weight-scales", "scales of weights by the error of the layer's output", _choosing(scales=True), 2),
    Repair("least-squares", "weights that make up for errors of what they are fed", _choosing(regress=True), 2),
    Repair("weight-spread", "scales that keep the deviation of every channel", _choosing(spread=True), 2),
    Repair("reconstruct", "weights trained block by block on the integers of the file", _reconstruct, 4),
)
