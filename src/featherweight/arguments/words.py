"""Names of arguments: those of other tools with ours for the same thing, and how an old word of ours is understood."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.errors import RecipeError, listed

# What other tools call it → what it is called here, the first that the function has. Words of TensorFlow's converter
# and model optimization, ai-edge-quantizer, torch.ao, ONNX Runtime, OpenVINO's NNCF, Keras and scikit-learn.
_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "representative_dataset": ("calibration", "samples"),
    "calibration_data": ("calibration", "samples"),
    "calibration_dataset": ("calibration", "samples"),
    "calibration_data_reader": ("calibration", "samples"),
    "calibration_samples": ("calibration", "samples"),
    "data": ("calibration", "samples", "inputs"),
    "dataset": ("calibration", "samples", "data"),
    "example_inputs": ("samples", "calibration"),
    "sample_inputs": ("samples", "calibration"),
    "sample_args": ("samples", "calibration"),
    "input_data": ("inputs", "samples"),
    "test_data": ("data", "samples"),
    "x": ("inputs", "samples", "data"),
    "num_samples": ("limit",),
    "num_calibration_samples": ("limit",),
    "subset_size": ("limit",),
    "max_samples": ("limit",),
    "steps": ("limit", "runs"),
    "calibrate_method": ("ranges",),
    "calibration_method": ("ranges",),
    "observer": ("ranges",),
    "optimizations": ("recipe",),
    "quant_format": ("recipe",),
    "qconfig": ("recipe",),
    "qconfig_mapping": ("recipe",),
    "quantization_config": ("recipe",),
    "scheme": ("recipe",),
    "mode": ("recipe",),
    "preset": ("recipe",),
    "activation_type": ("recipe",),
    "weight_type": ("recipe",),
    "dtype": ("recipe",),
    "inference_input_type": ("io",),
    "inference_output_type": ("io",),
    "device": ("target",),
    "target_device": ("target",),
    "backend": ("target",),
    "supported_ops": ("target", "strict"),
    "nodes_to_exclude": ("exclude", "recipe"),
    "ignored_scope": ("exclude", "recipe"),
    "layers_to_skip": ("exclude", "recipe"),
    "amount": ("sparsity",),
    "target_sparsity": ("sparsity", "final"),
    "final_sparsity": ("final", "sparsity"),
    "initial_sparsity": ("initial",),
    "begin_step": ("begin",),
    "end_step": ("end",),
    "pruning_schedule": ("schedule",),
    "block_size": ("pattern",),
    "sparsity_m_by_n": ("pattern",),
    "keras_model": ("source", "model"),
    "to_quantize": ("source",),
    "to_prune": ("source",),
    "model_input": ("source", "model"),
    "model_path": ("source", "model"),
    "model": ("source", "float_model", "models", "trained"),
    "source": ("model",),
    "filename": ("path",),
    "filepath": ("path",),
    "model_output": ("path",),
    "num_threads": ("threads",),
    "num_runs": ("runs",),
    "metrics": ("metric",),
    "verbose": ("progress",),
    "input_shape": ("input_shapes",),
}


def understood(
    title: str, given: Mapping[str, Any], words: Mapping[str, str | None], names: Sequence[str], stacklevel: int
) -> dict[str, Any]:
    """Returns keyword arguments under their present names; an old word is taken, with a DeprecationWarning.

    `words` maps an old word to the present one, or to None where it never had an effect.

    Raises:
        RecipeError: for a name that means nothing, with the one that is meant; or for an old and a new word together.
    """
    found = dict(given)
    for old, new in words.items():
        if old not in found:
            continue
        value = found.pop(old)
        if new is None:
            said = f"{title}: '{old}' has no effect, and goes with the next version. Leave it out."
        else:
            said = f"{title}: '{old}' is called '{new}', and goes with the next version. Write {new}=."
            if new in found:
                raise RecipeError(f"{title}: both '{new}' and its old name '{old}' are given. Leave '{old}' out.")
            found[new] = value
        warnings.warn(said, DeprecationWarning, stacklevel=stacklevel + 1)
    for name in found:
        if name not in names:
            raise RecipeError(f"{title} has no argument '{name}' (it has: {listed(names, 30)}).{_meant(name, names)}")
    return found


def _meant(name: str, names: Sequence[str]) -> str:
    known = [ours for ours in _ELSEWHERE.get(name, ()) if ours in names]
    likely = known[:1] or difflib.get_close_matches(name, names, 1)
    return f" Did you mean {likely[0]}=?" if likely else ""
