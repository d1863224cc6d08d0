"""The plan of a study: which models, checkpoints, variants and figures a configuration asks for, and their paths."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

from elagage.code_checksum import code_checksums
from elagage.data import OWN_SIZES, USUAL_IMAGES
from elagage.geometry import COVER, Geometry
from elagage.modes import CALIBRATED
from elagage.user_code import import_roots

PRUNED = "results/models/{model}/seed{seed}/{scope}/{rate}"  # folder of the checkpoints of a scope and rate
STEM = "results/models/{model}/seed{seed}/{checkpoint}"  # of a checkpoint, without its ending
MEASUREMENTS = ("accuracy", "size", "latency")  # of every file, in ONNX Runtime
PREDICTIONS = ("predictions", "validation_predictions")
NAMES = ("model", "seed", "scope", "rate", "recovery", "mode")  # columns that name a variant
WITHOUT_TRAINING = ("none", "batchnorm", "reconstruct")  # recoveries that the rule recover does not make
TRAINING_THREADS = 8  # at most, of the cores that a run has
# Pixels of a batch, up to which training takes a single thread. For a ResNet-8 and 32 images of 16x16, two threads
# mostly wait for each other: beside other programs on two cores an epoch of 597 images took 7 s of CPU time,
# with one 0.6 s.
SMALL_BATCH = 2**14
TEACHING = 1 / 3  # of a pass over the training images: a forward pass beside a forward and a backward pass
FIGURES_OF_SCOPE = ("accuracy", "model_size", "inference_time")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a completed configuration asks for."""

    config: Mapping

    @property
    def scopes(self) -> list[str]:
        """The scopes of pruning."""
        return self.config["pruning"]["scopes"]

    @property
    def rates(self) -> list[float]:
        """The rates of pruning, the lowest first."""
        return sorted(map(float, self.config["pruning"]["rates"]))

    def recoveries(self, model: str) -> list[str]:
        """Return the recoveries after pruning: those stated, else the best that does without training, if it is given.

        A model that is trained here can train after pruning, which goes further; that takes time, so it is stated.
        """
        return self.config["pruning"]["recovery"] or ["none" if model in self.trained else "reconstruct"]

    @property
    def all_recoveries(self) -> list[str]:
        """The recoveries of all models, each once."""
        return list(dict.fromkeys(name for model in self.config["models"] for name in self.recoveries(model)))

    @property
    def retraining_recoveries(self) -> list[str]:
        """The recoveries that train; `rewind` is among them as the first step of `iterative`."""
        asked = [*self.all_recoveries, *(["rewind"] if "iterative" in self.all_recoveries else [])]
        return [name for name in dict.fromkeys(asked) if name not in WITHOUT_TRAINING]

    @property
    def modes(self) -> list[str]:
        """The modes of quantization that the study compares."""
        return self.config["quantization"]["modes"]

    @property
    def quantize_modes(self) -> list[str]:
        """The modes that the rule quantize makes: all but qat, which trains.

        float32 is among them in every study, because each variant is timed against the dense float32 model.
        """
        return sorted({"float32", *self.modes} - {"qat"})

    @property
    def calibrates(self) -> bool:
        """Whether the rule quantize takes training images, to calibrate ranges."""
        return not {*CALIBRATED}.isdisjoint(self.modes)

    @property
    def mode_stems(self) -> list[str]:
        """The paths, without their endings, of the files of a checkpoint that are measured.

        float32 is among them in every study, because the answer's reference is a dense float32 file.
        """
        return [f"{STEM}-{mode}" for mode in dict.fromkeys(["float32", *self.modes])]

    @property
    def trained(self) -> list[str]:
        """The models that are trained: those that come without weights."""
        return [name for name, model in self.config["models"].items() if model["weights"] is None]

    @property
    def measures_sensitivity(self) -> bool:
        """Whether there are images and rates to measure the sensitivity of layers with."""
        return self.config["sensitivity"]["images"] != 0 and any(self.rates)

    @property
    def measures_int8_sensitivity(self) -> bool:
        """Whether there are images to measure the sensitivity of layers to int8 with, and a mode that it is about."""
        return self.config["sensitivity"]["images"] != 0 and not {"static", "mixed"}.isdisjoint(self.modes)

    @property
    def model_seeds(self) -> list[str]:
        """<model>/seed<seed> of every dense model."""
        return [f"{model}/seed{seed}" for model in self.config["models"] for seed in self.seeds(model)]

    @property
    def trained_seeds(self) -> list[str]:
        """<model>/seed<seed> of every dense model that is trained."""
        return [f"{model}/seed{seed}" for model in self.trained for seed in self.seeds(model)]

    def seeds(self, model: str) -> list[int]:
        """Return the seeds of a model: one whose weights are given has only the first, for its retraining."""
        seeds = self.config["seeds"]
        return seeds if model in self.trained else seeds[:1]

    def given_seeds(self, model: str) -> list[str]:
        """Return <model>/seed<seed> of a model whose weights are given, nothing for one that is trained."""
        return [f"{model}/seed{self.seeds(model)[0]}"] if model not in self.trained else []

    def checkpoint(self, scope: str, rate: float, recovery: str) -> str:
        """Return the path of a checkpoint below its model and seed, without its ending.

        No content is computed twice: nothing is pruned at rate 0, so every scope shares the dense model there, or that
        of a recovery that trains, its control; and the first step of `iterative` is `rewind`.
        """
        if rate == 0:
            return self.control(self.rates[-1], recovery)
        first = next(filter(None, self.rates))
        return f"{scope}/{rate}/{'rewind' if recovery == 'iterative' and rate == first else recovery}"

    def control(self, rate: float, recovery: str) -> str:
        """Return the checkpoint of the dense network that trained as long as the recovery at this rate did.

        What a recovery that trains makes of a pruned network is compared with it. That of `iterative` trains again for
        each rate, from the control of the rate before. A recovery that does not train has the dense network.
        """
        if recovery in WITHOUT_TRAINING:
            return "dense"
        step = [*filter(None, self.rates)].index(rate) + 1 if recovery == "iterative" and rate else 1
        return f"control/{'rewind' if step == 1 and recovery == 'iterative' else recovery}/{step}"

    @property
    def controls(self) -> list[str]:
        """The checkpoints that are controls, each once."""
        asked = [self.control(rate, recovery) for recovery in self.all_recoveries for rate in self.rates]
        return [name for name in dict.fromkeys(asked) if name != "dense"]

    def recovered_before(self, scope: str, rate: float) -> str:
        """Return the checkpoint that `iterative` made at the rate before, the dense one if there is none."""
        before = max([lower for lower in self.rates if lower < rate], default=0)
        return self.checkpoint(scope, before, "iterative") if before else "dense"

    @property
    def kinds(self) -> list[str]:
        """The measurements of each file: those of every study, and that of each further runtime, which has its name."""
        return [*MEASUREMENTS, *(name for name in self.config["evaluation"]["runtimes"] if name != "onnxruntime")]

    def measured(self, stem: str) -> dict[str, str]:
        """Return the paths of an ONNX file and of its measurements; stem: its path without the ending."""
        return {"file": f"{stem}.onnx"} | {kind: f"{stem}.{kind}.json" for kind in self.kinds}

    @functools.cached_property
    def variants(self) -> list[dict]:
        """One row per variant, as in the summary, with the paths of its measurements."""
        rows = []
        for model in self.config["models"]:
            for seed, scope, rate, recovery, mode in itertools.product(
                self.seeds(model), self.scopes, self.rates, self.recoveries(model), self.modes
            ):
                stem = f"results/models/{model}/seed{seed}/{self.checkpoint(scope, rate, recovery)}-{mode}"
                columns = dict(zip(NAMES, (model, seed, scope, rate, recovery, mode), strict=True))
                rows.append(columns | self.measured(stem))
        return rows

    @functools.cached_property
    def files(self) -> list[dict]:
        """One row per ONNX file, each once, with what names it and the paths of its measurements and predictions.

        The dense float32 file of each model and seed is among them, and all controls, whatever the rates and modes. A
        dense file has no scope, and no recovery unless it is a control. `control`: the file that it is compared with,
        "" for what did not train after pruning.
        """
        rows = {}
        for name in self.model_seeds:
            model, _, seed = name.rpartition("/seed")
            named = {"model": model, "seed": int(seed), "scope": "", "rate": 0.0, "control": ""}
            rows[f"results/models/{name}/dense-float32.onnx"] = named | {"recovery": "", "mode": "float32"}
            for control, mode in itertools.product(self.controls, dict.fromkeys(["float32", *self.modes])):
                recovery = control.split("/")[1]
                rows[f"results/models/{name}/{control}-{mode}.onnx"] = named | {"recovery": recovery, "mode": mode}
        for row in self.variants:
            stem = f"results/models/{row['model']}/seed{row['seed']}/{self.control(row['rate'], row['recovery'])}"
            trained = row["rate"] > 0 and row["recovery"] not in WITHOUT_TRAINING
            named = {key: row[key] for key in NAMES} | {"control": f"{stem}-{row['mode']}.onnx" if trained else ""}
            rows.setdefault(row["file"], named | ({} if row["rate"] else {"scope": "", "recovery": ""}))
        for file, row in rows.items():
            row |= self.measured(file.removesuffix(".onnx")) | predicted(file.removesuffix(".onnx"))
        return list(rows.values())

    @property
    def summary(self) -> list[dict]:
        """The rows of the summary: all variants, then the dense files and controls that no variant names."""
        named = {row["file"] for row in self.variants}
        keys = (*NAMES, "file", *self.kinds)
        return self.variants + [{key: row[key] for key in keys} for row in self.files if row["file"] not in named]

    @property
    def measurements(self) -> list[str]:
        """The paths of all measurements, each once."""
        return sorted({row[kind] for row in self.files for kind in self.kinds})

    @property
    def training_threads(self) -> int:
        """The threads of a job that trains: one for small batches.

        Then jobs that train beside each other use the cores, and weights do not depend on how many there are.
        """
        return 1 if self.config["training"]["batch_size"] * self.image_size**2 <= SMALL_BATCH else TRAINING_THREADS

    @property
    def fitted_images(self) -> int:
        """About how many images reconstruct takes: as many as usual up to 64 pixels, of larger ones the same memory."""
        usual = USUAL_IMAGES["retraining.reconstruct_images"] * min(1, (64 / self.image_size) ** 2)
        return self.config["retraining"]["reconstruct_images"] or round(usual)

    @property
    def image_size(self) -> int:
        """The pixels of an image's side."""
        dataset = self.config["dataset"]
        return dataset["image_size"] or OWN_SIZES[dataset["name"]]

    @property
    def trial_training(self) -> dict:
        """The settings of `training` as the check of a model uses them: two steps that change little.

        What fails in them fails because of the network. How long and how fast it is trained is no part of the check.
        """
        return self.config["training"] | {"epochs": 1, "learning_rate": 1e-4, "warmup_epochs": 0}

    def asked(self, model: str) -> dict:
        """Return what a model is tried with before anything is trained: of the rates the highest and the lowest."""
        pruned = [rate for rate in self.rates if rate]
        return {
            "scopes": self.scopes,
            "rates": list(dict.fromkeys([*pruned[-1:], *pruned[:1]])),
            "recoveries": self.recoveries(model),
            "modes": self.modes,
            "distillation": self.distillation,
        }

    def work(self, model: str) -> dict:
        """Return how much there is to do for a model: numbers of checkpoints, variants, passes over images, images.

        And how many threads a training takes.
        """
        checkpoints = {
            (seed, name)
            for seed, scope, rate, recovery in itertools.product(
                self.seeds(model), self.scopes, self.rates, self.recoveries(model)
            )
            for name in ("dense", self.checkpoint(scope, rate, recovery), self.control(rate, recovery))
        }
        trained = (*(f"/{name}" for name in self.retraining_recoveries), *self.controls)
        retrained = [name for _, name in checkpoints if name.endswith(trained)]
        trainings = len(self.seeds(model)) if model in self.trained else 0
        teaching = {name: (share > 0) * TEACHING for name, share in self.distillation.items()}
        passes = trainings * self.config["training"]["epochs"]
        passes += len(retrained) * self.config["retraining"]["epochs"] * (1 + teaching["retraining"])
        if "qat" in self.modes:  # each pass takes about twice as long
            passes += len(checkpoints) * self.config["quantization"]["qat_epochs"] * (2 + teaching["qat"])
        return {
            "checkpoints": len(checkpoints),
            "variants": len(checkpoints) * len(self.modes),
            "modes": self.modes,
            "training_passes": passes,
            "trainings": trainings + len(retrained),
            "training_threads": self.training_threads,
            "fits": sum(name.endswith("/reconstruct") for _, name in checkpoints),
            "fitted_images": self.fitted_images,
            "timed_images": self.config["evaluation"]["latency_images"] or USUAL_IMAGES["evaluation.latency_images"],
        }

    @property
    def figures(self) -> list[str]:
        """The names of the figures that the study has data for."""
        names = [f"{scope}_pruning_{metric}" for scope in self.scopes for metric in FIGURES_OF_SCOPE]
        names += ["quantization_comparison", "pareto"]
        names += ["scopes_accuracy"] if len(self.scopes) > 1 else []
        names += (
            ["recovery_comparison"] if any(len(self.recoveries(name)) > 1 for name in self.config["models"]) else []
        )
        names += ["training_history"] if self.trained else []
        names += ["sensitivity"] if self.measures_sensitivity else []
        names += ["sensitivity_int8"] if self.measures_int8_sensitivity else []
        return names

    def start(self, recovery: str) -> str:
        """Return the name of the checkpoint that a recovery that trains starts from, in the folder of its rate.

        `iterative` starts from what it left at the rate before, pruned on, and not fitted to the dense network.
        """
        pruned = pruned_for(recovery)
        return "reconstruct" if pruned == "none" and self.config["retraining"]["start"] == "reconstruct" else pruned

    def retraining(self, recovery: str) -> dict:
        """Return what a recovery that trains takes from the table `retraining`: other keys of it rerun nothing."""
        keys = ("epochs", "learning_rate") if recovery == "finetune" else ("epochs",)
        return {key: self.config["retraining"][key] for key in keys}

    @property
    def distillation(self) -> dict[str, float]:
        """The shares of the loss that the dense network teaches, of recoveries that train and of qat."""
        return {
            # Floats, as 0 and 0.0 ask for the same.
            "retraining": float(self.config["retraining"]["distillation"]),
            "qat": float(self.config["quantization"]["qat_distillation"]),
        }

    @property
    def qat_training(self) -> dict:
        """The settings of `training` as quantization-aware training uses them."""
        qat = {key: self.config["quantization"][f"qat_{key}"] for key in ("epochs", "learning_rate")}
        return self.config["training"] | qat | {"warmup_epochs": 0}

    def geometry(self, model: str) -> Geometry:
        """Return how images are scaled and cropped for a model."""
        preprocessing = self.config["models"][model]["preprocessing"]
        return Geometry(preprocessing["resize"], preprocessing["interpolation"])

    @property
    def other_geometries(self) -> dict[str, Geometry]:
        """The geometries that models state, by name, but for the usual one."""
        stated = map(self.geometry, self.config["models"])
        return {str(geometry): geometry for geometry in stated if geometry != COVER}

    def data(self, model: str) -> str:
        """Return the folder of the images as a model takes them."""
        geometry = self.geometry(model)
        return "results/data" if geometry == COVER else f"results/data/{geometry}"

    def trained_with(self, model: str) -> dict:
        """Return what the weights of a model expect of images, and the order of its classes, for Dataset.as_trained."""
        stated = self.config["models"][model]
        preprocessing = stated["preprocessing"]
        return {
            "model": model,
            "normalization": stated["normalization"],
            "channels": preprocessing["channels"],
            "full_scale": preprocessing["range"],
            "classes": stated["classes"],
        }

    def user_code(self, model: str) -> str | None:
        """Return the checksums of the user's file that defines a model and of what it imports, None if built in."""
        file = self.config["models"][model]["architecture"].rpartition(":")[0]
        return code_checksums(file, import_roots(file)) if file else None


def predicted(stem: str) -> dict[str, str]:
    """Return the paths of the predictions of an ONNX file on test and on validation images."""
    return {predictions: f"{stem}.{predictions}.npy" for predictions in PREDICTIONS}


def pruned_for(recovery: str) -> str:
    """Return the name of the pruned checkpoint that a recovery starts from."""
    return "iterative_pruned" if recovery.startswith("iterative") else "none"


def graph(model: str, seed: str, checkpoint: str) -> str:
    """Return the path of the graph that has a checkpoint's shapes: the model's, or that of the channels that are left.

    Retraining keeps the shapes; `iterative` prunes again at each rate.
    """
    scope, *rest = checkpoint.split("/")
    if scope != "channel":
        return f"results/models/{model}/graph.onnx"
    rate, recovery = rest
    return f"results/models/{model}/seed{seed}/channel/{rate}/{pruned_for(recovery)}.graph.onnx"
