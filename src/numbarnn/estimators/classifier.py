"""RNNClassifier."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call

from numbarnn.estimators import validation
from numbarnn.estimators.base import BaseRNN, can_partial_fit
from numbarnn.estimators.document import document
from numbarnn.estimators.sequences import all_steps, on_steps
from numbarnn.losses import LOSSES

__all__ = ["RNNClassifier"]


@document(loss="log_loss", losses='"log_loss": cross-entropy, of two classes or more.')
class RNNClassifier(ClassifierMixin, BaseRNN):
    """Recurrent neural network for classification.

    Parameters
    ----------
    <parameters>
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, by its label, 1 for those that a dict does not name; "balanced" weighs inversely
        to how often a class is seen, samples counted by their `sample_weight`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    <attributes>

    See Also
    --------
    RNNRegressor : The same network for numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import RNNClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(length, 1)) for length in rng.integers(5, 15, size=100)]
    >>> y = np.where([x.sum() > 0 for x in X], "up", "down")
    >>> model = RNNClassifier(hidden_size=16, learning_rate_init=0.02, max_iter=60, tol=0, random_state=0)
    >>> from sklearn.exceptions import ConvergenceWarning
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", ConvergenceWarning)
    ...     model = model.fit(X, y)
    >>> model.predict_proba(X[:3]).shape, model.score(X, y) > 0.9
    ((3, 2), True)
    """

    _parameter_constraints: dict[str, list] = {
        **BaseRNN._parameter_constraints,
        "loss": [StrOptions({"log_loss"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self, cell="gru", hidden_size=64, *, num_layers=1, bidirectional=False, dropout=0.0,
        loss="log_loss", solver="adam", learning_rate_init=1e-3, learning_rate="constant", alpha=0.0,
        batch_size="auto", max_iter=100, tol=1e-4, n_iter_no_change=10, early_stopping=False,
        validation_fraction=0.1, max_grad_norm=1.0, ema_momentum=None, initial_state="zeros",
        return_sequences=False, n_channels=1, shuffle=True, warm_start=False, dtype="float32", device="cpu",
        n_jobs=None, random_state=None, verbose=0, momentum=0.0, nesterovs_momentum=True, beta_1=0.9,
        beta_2=0.999, epsilon=1e-8, weight_decay=0.01, init="uniform", forget_bias=None, callbacks=None,
        embedding=None, stem_sizes=(), head_sizes=(), residual=False, merge="concat", recurrent_dropout=0.0,
        zoneout=0.0, stateful=False, proj_size=0, class_weight=None,
    ) -> None:  # fmt: skip
        vars(self).update({name: value for name, value in locals().items() if name != "self"})

    def _loss(self):
        return LOSSES[self.loss]()

    def _encode(self, y, x, weight, lengths, valid, reset):
        with validation.naming("y"):
            labels, valid = validation.check_labels(y, x, lengths, valid, self.return_sequences)
            seen = labels
            if weight is not None:
                # a label that has no weight is not there
                seen = labels[np.repeat(weight > 0, valid.sum(axis=1))]
            if reset and not hasattr(self, "_classes_given"):
                self.classes_ = np.unique(seen)
            elif not np.isin(seen, self.classes_).all():
                raise ValueError(f"y had classes that are not in {self.classes_}, those of the first call")
            if len(self.classes_) < 2:
                (lone,) = self.classes_.tolist()
                ones = "" if weight is None else " of samples with a weight above 0"
                raise ValueError(f"y had one class{ones}, {lone!r}; expected at least two")
            codes = np.minimum(np.searchsorted(self.classes_, labels), len(self.classes_) - 1)
        if self.class_weight is not None:
            weight = self._weigh_classes(labels, valid, weight)
        self.n_outputs_ = self._loss().n_raw(len(self.classes_))
        if not self.return_sequences:
            return codes[:, np.newaxis], weight, len(self.classes_)
        codes = validation.placed(codes, valid)
        return on_steps(lambda steps: steps[..., np.newaxis], codes), weight, len(self.classes_)

    def _weigh_classes(self, labels, valid, weight):
        """Return weights (n[, T]): those of the classes times those of the samples."""
        given = self.class_weight if isinstance(self.class_weight, dict) else {}
        for label, value in given.items():
            if not isinstance(value, Real) or not 0 <= value < np.inf:
                raise ValueError(f"class_weight[{label!r}] was {value!r}; expected a finite number from 0")
        with validation.naming("class_weight"):
            # a dict may name classes of all calls: a batch of `partial_fit` need not hold each of them
            classes = np.union1d(self.classes_, labels) if given else np.unique(labels)
            unknown = [label for label in given if label not in classes]
            # what names all classes, and others, is for other calls as well
            if unknown and not set(classes.tolist()) <= set(given):
                names = ", ".join(map(repr, unknown))
                raise ValueError(f"class_weight had {names}, which is no class of y: {classes.tolist()}")
            codes = np.searchsorted(classes, labels)
            if self.class_weight == "balanced":
                counts = np.bincount(codes, None if weight is None else np.repeat(weight, valid.sum(axis=1)))
                there = counts > 0
                each = np.divide(counts.sum() / there.sum(), counts, where=there, out=np.zeros(len(counts)))
            else:
                each = compute_class_weight(self.class_weight, classes=classes, y=labels)
            by_class = validation.placed(each[codes], valid)
        if weight is not None:
            by_class = on_steps(np.multiply, by_class, weight)
        if not all_steps(by_class).any():
            raise ValueError(f"class_weight was {self.class_weight!r}; expected one above 0 for some sample")
        return by_class if self.return_sequences else by_class[:, 0]

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, lengths: Any = None, mask: Any = None
    ) -> RNNClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_timesteps, n_features), list of array-like of shape \
(T_i, n_features), or array-like of shape (n_samples, n_timesteps * n_channels)
            Each minibatch of a list is padded to its longest sequence, by "lbfgs" of 256 samples; with
            ``device="cuda"``, where the data lie on the device, all are padded to the longest.
        y : array-like of shape (n_samples,)
            Labels of any kind. With ``return_sequences=True`` a label for each step, (n_samples,
            n_timesteps), or a list of sequences of labels.
        sample_weight : array-like of shape (n_samples,), default=None
        lengths : array-like of int of shape (n_samples,), default=None
            Valid steps of each sample of an array that is padded at the end.
        mask : array-like of bool of shape (n_samples, n_timesteps), or list of (T_i,), default=None
            False for steps that are missing, wherever they are in a sequence: states are held there, and
            neither X nor a target of the step is looked at, which may be NaN. At least one step of each
            sample is True. Where X is a list, a list, or an array that is padded at the end.

        Returns
        -------
        self : RNNClassifier

        Raises
        ------
        FloatingPointError
            If the loss is no longer finite. The estimator is then as before the call.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If `max_iter` came before convergence, or Ctrl-C ended training, after the batch at work: the
            estimator is then fitted as far as training came. A second Ctrl-C raises KeyboardInterrupt.
        """
        with self._unchanged_on_error():
            return self._fit(X, y, sample_weight, lengths, mask)

    @available_if(can_partial_fit)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None, lengths: Any = None,
        mask: Any = None,
    ) -> RNNClassifier:  # fmt: skip
        """Train for one epoch on these samples, going on from the last call.

        If the solver or its options are others than in the call before, its running means begin anew. Ctrl-C
        raises KeyboardInterrupt, and leaves the estimator as it was.

        Parameters
        ----------
        X, y, sample_weight, lengths, mask
            As in `fit`.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call.

        Returns
        -------
        self : RNNClassifier
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight was 'balanced', which partial_fit cannot know; pass a dict")
        with self._unchanged_on_error():
            if _check_partial_fit_first_call(self, classes):
                self._classes_given = True
            try:
                return self._partial_fit(X, y, sample_weight, lengths, mask)
            finally:
                vars(self).pop("_classes_given", None)

    def predict_proba(
        self, X: Any, lengths: Any = None, mask: Any = None
    ) -> np.ndarray | list[np.ndarray]:
        """Probability of each class.

        Parameters
        ----------
        X, lengths, mask
            As in `fit`; sequences may have other numbers of steps, but two-dimensional X as many columns.

        Returns
        -------
        probability : ndarray of shape (n_samples, n_classes) or (n_samples, n_timesteps, n_classes)
            Columns in the order of `classes_`; a list where X is a list and ``return_sequences=True``. All
            are 0 at steps that `mask` leaves out, and in an array past the end of a sequence.
        """
        return self._hand_back(self._predict(X, lengths, mask)[0], X)

    def predict_log_proba(
        self, X: Any, lengths: Any = None, mask: Any = None
    ) -> np.ndarray | list[np.ndarray]:
        """Logarithm of the probability of each class.

        Parameters
        ----------
        X, lengths, mask
            As in `fit`; sequences may have other numbers of steps, but two-dimensional X as many columns.

        Returns
        -------
        log_probability : ndarray or list of ndarray
            As of `predict_proba`.
        """
        found = self.predict_proba(X, lengths, mask)
        with np.errstate(divide="ignore"):
            return [np.log(each) for each in found] if isinstance(found, list) else np.log(found)

    def predict(self, X: Any, lengths: Any = None, mask: Any = None) -> np.ndarray | list[np.ndarray]:
        """Most probable class.

        Parameters
        ----------
        X, lengths, mask
            As in `fit`; sequences may have other numbers of steps, but two-dimensional X as many columns.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_timesteps)
            A list where X is a list and ``return_sequences=True``. At steps that `mask` leaves out, and in an
            array past the end of a sequence, it is the first class, and means nothing.
        """
        return self._hand_back(self._most_probable(self._predict(X, lengths, mask)[0]), X)

    def _most_probable(self, probability):
        return on_steps(lambda steps: self.classes_[steps.argmax(axis=-1)], probability)

    def score(
        self, X: Any, y: Any, sample_weight: Any = None, lengths: Any = None, mask: Any = None
    ) -> float:
        """Accuracy, over all valid steps with ``return_sequences=True``.

        Parameters
        ----------
        X, y, sample_weight, lengths, mask
            As in `fit`.

        Returns
        -------
        score : float

        Notes
        -----
        See `RNNRegressor.score` on `lengths` and `mask` in a search.
        """
        from sklearn.metrics import accuracy_score

        result, lengths, valid = self._predict(X, lengths, mask)
        found = self._most_probable(result)
        if not self.network_.return_sequences:
            return accuracy_score(y, found, sample_weight=sample_weight)
        with validation.naming("y"):
            labels, valid = validation.check_labels(y, result, lengths, valid, True)
        weight = validation.check_weights(sample_weight, result)
        weight = None if weight is None else np.repeat(weight, valid.sum(axis=1))
        return accuracy_score(labels, all_steps(found)[all_steps(valid)], sample_weight=weight)
