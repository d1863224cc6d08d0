"""FIGURES: the name of a figure's file -> the function that draws it."""

import functools

from elagage.figures.pareto import pareto
from elagage.figures.pruning import pruning, recovery_comparison, scopes_accuracy
from elagage.figures.quantization import quantization_comparison
from elagage.figures.sensitivity import sensitivity
from elagage.figures.sensitivity_int8 import sensitivity_int8
from elagage.figures.training import training_history

FIGURES = {
    f"{scope}_pruning_{name}": functools.partial(pruning, scope=scope, name=name)
    for scope in ("local", "global", "channel")
    for name in ("accuracy", "model_size", "inference_time")
} | {
    figure.__name__: figure
    for figure in (
        *(scopes_accuracy, recovery_comparison, quantization_comparison, pareto, training_history),
        *(sensitivity, sensitivity_int8),
    )
}
