"""What the estimators share: parameters, input, training, prediction."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from numbarnn.blocks import valid_steps
from numbarnn.checks import categories, sizes_of
from numbarnn.estimators import validation
from numbarnn.estimators.sequences import Sequences, on_steps
from numbarnn.estimators.sources import ArraySource, Subset, steps_that_count
from numbarnn.losses import Loss
from numbarnn.network import Network
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.schedules import SCHEDULES, Schedule
from numbarnn.training import make_trainer

__all__ = ["BaseRNN", "can_partial_fit"]

_PREDICT_BATCH = 256
_SHORT = 64  # steps: sequences up to here are predicted together, whatever their lengths
# parameters that say what the network is made of
_SHAPE = (
    "cell", "hidden_size", "num_layers", "bidirectional", "dropout", "return_sequences", "dtype", "embedding",
    "stem_sizes", "head_sizes", "initial_state", "stateful", "residual", "merge", "recurrent_dropout",
    "zoneout", "proj_size",
)  # fmt: skip


def _batches(n, n_batch, lengths):
    """Yield rows in batches: in their order, or by length, if given, so that few are padded to a long one.

    No sequence of a batch is then shorter than half the longest, if that is not a short one.
    """
    if lengths is None:
        yield from (slice(start, start + n_batch) for start in range(0, n, n_batch))
        return
    order = np.argsort(-lengths, kind="stable")
    falling = np.maximum(lengths[order], _SHORT)
    start = 0
    while start < n:
        alike = np.searchsorted(-falling, -falling[start] / 2, side="right")
        stop = min(alike, start + n_batch)
        yield order[start:stop]
        start = stop


def _room(x, found, return_sequences):
    """Return zeros for the predictions of all samples, which are shaped as those found of some."""
    if not return_sequences:
        return np.zeros((len(x), *found.shape[1:]), x.dtype)
    return on_steps(lambda steps: np.zeros((*steps.shape[:-1], *found.shape[2:]), x.dtype), x)


def can_partial_fit(estimator: BaseRNN) -> bool:
    """Whether there is a `partial_fit`; an AttributeError says why not."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is not available with solver='lbfgs', which needs all samples")
    return True


class BaseRNN(BaseEstimator):
    """What regressor and classifier share. They give `_loss`, `_encode` and the public methods."""

    _parameter_constraints: dict[str, list] = {
        "cell": [str],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "num_layers": [Interval(Integral, 1, None, closed="left")],
        "bidirectional": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "solver": [StrOptions({"adam", "adamw", "rmsprop", "sgd", "lbfgs"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [StrOptions(set(SCHEDULES)), Schedule],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema_momentum": [Interval(Real, 0, 1, closed="left"), None],
        "initial_state": [StrOptions({"zeros", "random", "learned"})],
        "return_sequences": ["boolean"],
        "n_channels": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "dtype": [StrOptions({"float32", "float64"})],
        "device": [StrOptions({"cpu", "cuda"})],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "init": [StrOptions({"uniform", "orthogonal"})],
        "forget_bias": [Interval(Real, None, None, closed="neither"), None],
        "callbacks": [callable, list, tuple, None],
        "embedding": [list, tuple, None],
        "stem_sizes": ["array-like"],
        "head_sizes": ["array-like"],
        "residual": ["boolean"],
        "merge": [StrOptions({"concat", "sum", "mean", "product"})],
        "recurrent_dropout": [Interval(Real, 0, 1, closed="left")],
        "zoneout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "stateful": ["boolean"],
        "proj_size": [Interval(Integral, 0, None, closed="left")],
    }

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _encode(self, y, x, weight, lengths, valid, reset):
        """Return targets (n[, T], k), weights (n[, T]) or None, and the number of targets or classes."""
        raise NotImplementedError

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        """Let a call that fails leave the estimator as it was."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    # ------------------------------------------------------------------ input

    def _check_X(self, X, lengths, mask, reset):
        """Return X as (n, T, F), zero where steps are not valid, its lengths, and which steps are valid.

        Both may be None, for all steps; the last is the lengths too, if a mask leaves out nothing more. A
        list of sequences of unequal length comes as `Sequences`.
        """
        dtype = self.dtype if reset else self.network_.dtype
        n_channels = self.n_channels if reset else self.network_.config["input_size"]
        with validation.naming("X"):
            validation.check_kind(X, "X")
            if getattr(X, "ndim", 0) == 1 and hasattr(X, "to_numpy"):
                X = X.to_numpy()  # a column whose cells are sequences
            ndim = validation.input_ndim(X)
            validation.check_list(X, ndim)
            if not reset and ndim in (2, 3) and ndim != self._input_ndim:
                raise ValueError(f"X had {ndim} dimensions; expected {self._input_ndim}, as in fit")
            if ndim > 3:
                raise ValueError(f"X had {ndim} dimensions; expected 3 (samples, steps, features) or 2")
            if ndim == 3:
                x, lengths = validation.check_sequences(X, lengths, mask is not None)
                n_features = x.shape[2]
                if reset:
                    vars(self).pop("feature_names_in_", None)
                    self.n_features_in_ = n_features
                elif n_features != self.n_features_in_:
                    raise ValueError(f"X had {n_features} features, expected {self.n_features_in_} as in fit")
            else:
                x = validate_data(
                    self, X, reset=reset, dtype=[np.float64, np.float32], order="C", ensure_all_finite=False
                )
                if x.shape[1] % n_channels:
                    raise ValueError(
                        f"X had {x.shape[1]} columns; expected a multiple of n_channels={n_channels}"
                    )
                x = x.reshape(len(x), -1, n_channels)
        lengths = validation.check_lengths(lengths, *x.shape[:2])
        valid = validation.join(lengths, mask, X, x)
        if reset:
            self._input_ndim = ndim
        x = validation.check_values(x, valid, "X", dtype)
        embedding = self.embedding if reset else self.network_.config["embedding"]
        validation.check_categories(x, categories("embedding", embedding, x.shape[2]))
        return x, lengths, valid

    def _check_data(self, X, y, sample_weight, lengths, mask, reset):
        """Return x, y, weight, valid as arrays, without those of weight zero, and the number of targets."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        x, lengths, valid = self._check_X(X, lengths, mask, reset)
        weight = validation.check_weights(sample_weight, x)
        y, weight, n_targets = self._encode(y, x, weight, lengths, valid, reset)
        if weight is not None and not self.stateful:  # where states go on, a sample without weight is read
            keep = (weight.sum(axis=1) if weight.ndim == 2 else weight) > 0
            if not keep.all():
                x, y, weight = x[keep], y[keep], weight[keep]
                valid = None if valid is None else valid[keep]
        return (x, y, weight, valid), n_targets

    # ------------------------------------------------------------------ training

    def _make_network(self, config: dict, seed: int) -> Network:
        options = {"init": self.init, "forget_bias": self.forget_bias, "n_jobs": self.n_jobs}
        return Network(**config, random_state=seed, **options)

    def _go_on(self, network: Network, config: dict) -> Network:
        """Return the network of the call before, if it is the one that the parameters ask for."""
        given_by = {"input_size": "n_channels", "n_outputs": "the number of outputs for y"}
        changes = [
            f"{given_by.get(name, name)} was {value!r}; expected {network.config[name]!r}"
            for name, value in config.items()
            if value != network.config[name]
        ]
        if changes:
            raise ValueError(f"{', '.join(changes)}, as in the call before, whose network is trained further")
        network.n_jobs = self.n_jobs
        return network

    def _make_optimizer(self, network: Network):
        adam = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        options = {
            "sgd": {"momentum": self.momentum, "nesterov": self.nesterovs_momentum},
            "rmsprop": {"beta_2": self.beta_2, "epsilon": self.epsilon},
            "adam": adam,
            "adamw": adam | {"weight_decay": self.weight_decay},
        }
        return OPTIMIZERS[self.solver](network.parameters.size, self.dtype, **options[self.solver])

    def _start(self, data, n_targets, network=None):
        """Return a trainer and a network: a new one, or the given one."""
        x, loss = data[0], self._loss()
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=2)
        trainer = make_trainer(self, len(x), loss, np.random.default_rng(seeds[1]))
        if self.stateful:
            trainer.shuffle, trainer.batch_size = False, self._n_series(len(x))
            trainer.stateful = True
        if self.solver == "lbfgs":
            self._check_repeatable()
        config = {name: getattr(self, name) for name in _SHAPE}
        config["input_size"] = self.n_channels if self._input_ndim == 2 else x.shape[2]
        config["n_outputs"] = loss.n_raw(n_targets)
        config["embedding"] = categories("embedding", self.embedding, config["input_size"])
        for name in ("stem_sizes", "head_sizes"):
            config[name] = sizes_of(name, config[name])
        config["zoneout"] = np.asarray(self.zoneout).tolist()
        if network is None:
            network = self._make_network(config, int(seeds[0]))
        else:
            network = self._go_on(network, config)
        if self.device == "cuda":
            from numbarnn.cuda.training import on_device

            trainer = on_device(trainer, network)
        return trainer, network

    def _n_series(self, n_samples):
        """Return the number of series whose windows follow one another in the samples."""
        n = 1 if self.batch_size == "auto" else self.batch_size
        if n_samples % n:
            raise ValueError(
                f"batch_size was {n}; stateful=True expects one that divides the {n_samples} samples of X"
            )
        return n

    def _check_repeatable(self):
        """Refuse what makes the loss another function in every evaluation, or has no exact gradient."""
        for name, refused, value in (  # dropout is refused by the trainer
            ("recurrent_dropout", self.recurrent_dropout > 0, 0),
            ("zoneout", np.any(self.zoneout), 0),
            ("initial_state", self.initial_state == "random", "zeros"),
            ("stateful", self.stateful, False),
        ):
            if refused:
                raise ValueError(
                    f"{name} was {getattr(self, name)!r}; solver='lbfgs' expects {value!r}, since it "
                    "minimises a function that is the same in every evaluation"
                )

    def _fit(self, X, y, sample_weight, lengths, mask):
        again = self.warm_start and hasattr(self, "network_")
        data, n_targets = self._check_data(X, y, sample_weight, lengths, mask, reset=not again)
        trainer, network = self._start(data, n_targets, copy.deepcopy(self.network_) if again else None)
        network.reset_states()
        early_stopping, n_train = self.early_stopping and self.solver != "lbfgs", len(data[0])
        if len(data[0]) <= trainer.batch_size and not early_stopping and not self.stateful:
            # what is one batch is padded in any case
            arrays = [each[:, :] if isinstance(each, Sequences) else each for each in data]
            data = validation.merge_equal(*arrays)
        parts = self._split(data[1], trainer) if early_stopping else (slice(None),)
        source, held_out = self._make_source(data, trainer, parts), None
        self._optimizer = None
        if self.solver == "lbfgs":
            trainer.batch_size = _PREDICT_BATCH
            history = trainer.fit_lbfgs(network, source)
        else:
            if early_stopping:
                source, held_out = (Subset(source, part) for part in parts)
                n_train = source.n_samples
            self._optimizer = self._make_optimizer(network)
            history = trainer.fit(network, self._optimizer, source, held_out)
        network.reset_states()
        self.network_, self._rng, self._trained_loss = network, trainer.rng, trainer.loss
        self.loss_curve_ = history.loss_curve
        self.validation_scores_ = [-loss for loss in history.validation_curve] if early_stopping else None
        self.best_validation_score_ = max(self.validation_scores_) if early_stopping else None
        self.loss_, self.best_loss_ = history.loss_curve[-1], min(history.loss_curve)
        self.n_iter_ = len(history.loss_curve)
        self.t_ = self.n_iter_ * n_train
        return self

    def _make_source(self, data, trainer, parts=(slice(None),)):
        """Return the data as a source, with weights scaled to a mean of 1 in each of some parts.

        The penalty is scaled as the first part is, the one that is trained on.
        """
        x, y, weight, valid = data
        if weight is not None:
            means = [
                self._mean_weight(weight[part], None if valid is None else valid[part], x.shape[1])
                for part in parts
            ]
            if not all(means):  # stateful: elsewhere samples without weight have been left out
                raise ValueError(
                    "sample_weight (times class_weight) was zero for all samples that early_stopping=True "
                    "holds out, or for all others; expected one above 0 in both parts"
                )
            # the penalty is one of samples, whatever number of steps they have
            counts = self._counts(valid, len(x), x.shape[1])
            samples = (weight.sum(axis=1) / counts if weight.ndim == 2 else weight)[parts[0]]
            trainer.alpha *= len(samples) / samples.sum()
            scales = np.empty(len(x))
            for part, mean in zip(parts, means, strict=True):
                scales[part] = mean
            weight = on_steps(np.divide, weight, scales) if weight.ndim == 2 else weight / scales
        return ArraySource(x, y, weight, valid, self.dtype)

    def _counts(self, valid, n_samples, n_timesteps):
        """Return how many targets each sample has: one, or its valid steps."""
        if not self.return_sequences:
            return np.ones(n_samples, np.int64)
        if valid is None:
            return np.full(n_samples, n_timesteps)
        return valid if valid.ndim == 1 else valid.sum(axis=1)

    def _mean_weight(self, weight, valid, n_timesteps):
        """Return the mean weight of targets: of samples, or of valid steps."""
        counts = self._counts(valid, len(weight), n_timesteps)
        total = weight.sum() if weight.ndim == 2 else weight @ counts
        return total / counts.sum()

    def _split(self, y, trainer):
        """Return indices of the samples for training and of those held out."""
        n, rng = len(y), trainer.rng
        n_test = math.ceil(self.validation_fraction * n)
        if self.stateful:
            n_test += -n_test % trainer.batch_size  # the same number of windows of every series
        if n - n_test < 1 or n_test < 2:
            raise ValueError(
                f"validation_fraction was {self.validation_fraction}, which leaves {n - n_test} samples to "
                f"train on and {n_test} to validate with; expected at least 1 and 2"
            )
        if not trainer.shuffle:
            return np.arange(n - n_test), np.arange(n - n_test, n)
        if is_classifier(self) and not self.return_sequences:
            from sklearn.model_selection import train_test_split

            self._check_classes(y, n_test)
            seed = int(rng.integers(2**31))
            return train_test_split(np.arange(n), test_size=n_test, random_state=seed, stratify=y)
        order = rng.permutation(n)
        return order[n_test:], order[:n_test]

    def _check_classes(self, y, n_test):
        """Refuse what cannot be split so that every class is on both sides."""
        codes, counts = np.unique(y, return_counts=True)
        if counts.min() < 2:
            lone = self.classes_.tolist()[codes[np.argmin(counts)]]
            raise ValueError(
                f"y had one sample of class {lone!r}; early_stopping=True expects two or more of each, to "
                "train on and to validate with"
            )
        if min(n_test, len(y) - n_test) < len(codes):
            raise ValueError(
                f"validation_fraction was {self.validation_fraction}, which leaves {len(y) - n_test} samples "
                f"to train on and {n_test} to validate with; expected at least as many as the {len(codes)} "
                "classes"
            )

    def _partial_fit(self, X, y, sample_weight, lengths, mask):
        if self.early_stopping:
            raise ValueError("early_stopping was True; partial_fit does not set samples aside")
        again = hasattr(self, "network_")
        data, n_targets = self._check_data(X, y, sample_weight, lengths, mask, reset=not again)
        trainer, network = self._start(data, n_targets, self.network_ if again else None)
        if not again:
            self.network_, self._rng, self._optimizer = network, trainer.rng, None
            self.loss_curve_, self.n_iter_, self.t_ = [], 0, 0
            self.validation_scores_ = self.best_validation_score_ = None
            self.best_loss_ = math.inf
        trainer.rng = self._rng
        optimizer = self._make_optimizer(network)
        if self._optimizer is None or optimizer.options != self._optimizer.options:
            self._optimizer = optimizer
        rate = trainer.schedule(self.learning_rate_init, self.n_iter_, self.max_iter, self.loss_curve_)
        source = self._make_source(data, trainer)
        before = network.snapshot(), self._optimizer.snapshot(), self._rng.bit_generator.state
        try:
            loss, _ = trainer.epoch(network, self._optimizer, source, rate, self.n_iter_)
        except BaseException:
            network.restore(before[0])
            self._optimizer.restore(before[1])
            self._rng.bit_generator.state = before[2]
            raise
        self._trained_loss = trainer.loss
        self.loss_curve_.append(loss)
        self.loss_, self.best_loss_ = loss, min(loss, self.best_loss_)
        self.n_iter_ += 1
        self.t_ += source.n_samples
        return self

    # ------------------------------------------------------------------ prediction

    def _predict(self, X, lengths, mask):
        """Return predictions (n[, T], ...), zero where steps are not valid, lengths, and which are valid."""
        check_is_fitted(self)
        x, lengths, valid = self._check_X(X, lengths, mask, reset=False)
        # what was fitted counts, not what parameters have been set to since
        network, loss = self.network_, self._trained_loss
        network.n_jobs = self.n_jobs
        stateful = network.config["stateful"]
        n_batch = self._n_series(len(x)) if stateful else _PREDICT_BATCH
        if self.device == "cuda":
            from numbarnn.cuda.network import DeviceNetwork

            network = DeviceNetwork(network)
            n_batch = n_batch if stateful else network.rows_that_fit(x.shape[1])
        result = None
        for batch in _batches(len(x), n_batch, None if stateful else lengths):
            here, steps = (None, x.shape[1]) if valid is None else steps_that_count(valid, batch)
            raw = network.forward(np.ascontiguousarray(x[batch, :steps], network.dtype), here)
            # in the precision of the result: probabilities in float64 are expected to sum to 1 in float64
            found = loss.predict(raw.astype(np.promote_types(raw.dtype, x.dtype), copy=False))
            if result is None:
                result = _room(x, found, raw.ndim == 3)
            if raw.ndim == 3:
                if here is not None:
                    found[~valid_steps(here, steps)] = 0
                result[batch, :steps] = found
            else:
                result[batch] = found
        return result, lengths, valid

    def _hand_back(self, result, X):
        """Return one array, or for a list of sequences a list."""
        if not self.network_.return_sequences or self._input_ndim == 2 or not validation.is_listed(X):
            return result
        return list(result)

    def reset_states(self) -> BaseRNN:
        """Let the next prediction, or the next `partial_fit`, of a stateful network begin anew.

        Returns
        -------
        self : RNNRegressor or RNNClassifier
        """
        check_is_fitted(self)
        self.network_.reset_states()
        return self
