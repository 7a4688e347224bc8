"""What the docstrings of the estimators share."""

from __future__ import annotations

__all__ = ["document"]

_PARAMETERS = """cell : str, default="gru"
        "rnn" (tanh), "rnn_relu", "lstm", "gru", "gru_reset_before", "lstm_peephole",
        "lstm_peephole_candidate", "lstm_coupled", "lstm_layernorm", "mgu", "indrnn", "mingru", "minlstm",
        "article_lstm", "article_gru": see docs/cells.md; also with other activations and clipping, as
        "lstm[hard_sigmoid,tanh,tanh;clip=3.0]". Or a cell of one's own: see docs/own_cell.md and
        `numbarnn.register_cell`.
    hidden_size : int, default=64
        Units of each layer and direction.
    num_layers : int, default=1
    bidirectional : bool, default=False
        Also read the sequences backwards.
    dropout : float, default=0.0
        Part of the units dropped in training, between two recurrent layers and behind each hidden dense one.
    loss : str, default="{loss}"
        {losses}
    solver : {{"adam", "adamw", "rmsprop", "sgd", "lbfgs"}}, default="adam"
        "lbfgs" works on all samples at once, without schedule, clipping, averages, early stopping, `stateful`
        or what is drawn anew for each batch (dropout, zoneout, random states), and best with
        ``dtype="float64"``.
    learning_rate_init : float, default=1e-3
    learning_rate : str or Schedule, default="constant"
        How the rate changes from epoch to epoch. "constant", "step", "exponential", "cosine" and "adaptive"
        (lowers it on a plateau) stand for the defaults of their classes in `numbarnn.schedules`.
    alpha : float, default=0.0
        Strength of the L2 penalty on weights, not biases; as in MLPRegressor it is divided by the number of
        samples in the batch (weighted samples count by their weights).
    batch_size : int or "auto", default="auto"
        "auto" is about a hundredth of the samples, a power of two from 32 to 256; 1 with `stateful`.
    max_iter : int, default=100
        Most epochs; with "lbfgs", iterations.
    tol : float, default=1e-4
        Training ends when the loss (with early stopping that of the validation part) has not become lower by
        `tol` in `n_iter_no_change` epochs in a row. With "lbfgs", bounds the largest element of the gradient.
    n_iter_no_change : int or inf, default=10
        With inf training goes on to `max_iter`, and there is no warning that it was reached.
    early_stopping : bool, default=False
        Set a part of the samples aside, stop when its loss no longer becomes lower, and keep the weights of
        its lowest loss.
    validation_fraction : float, default=0.1
        Size of that part: drawn at random (stratified by class), or the last samples if not `shuffle`.
    max_grad_norm : float or None, default=1.0
        A gradient with a larger Euclidean norm is scaled down to it; None leaves gradients as they are.
    ema_momentum : float or None, default=None
        If given, `fit` averages the weights over the updates, exponentially with this momentum, for example
        0.99: the validation part is predicted by averages, and averages are kept. They are less noisy than
        the weights after any one batch. Without effect in `partial_fit`.
    initial_state : {{"zeros", "random", "learned"}}, default="zeros"
        What every sequence begins with. "random": drawn anew for every batch of training, from a normal
        distribution with a standard deviation of 0.1, so that the network learns not to depend on it; zeros
        in prediction. "learned": one vector for each layer, direction and part of the state, trained with the
        rest from zeros, without L2 penalty.
    return_sequences : bool, default=False
        A target for every time step instead of one for each sequence.
    n_channels : int, default=1
        Channels in two-dimensional X, whose columns are then step by step, channel by channel in a step.
        Without effect where X has three dimensions, or is a list of sequences.
    shuffle : bool, default=True
        Draw the samples in another order in every epoch.
    warm_start : bool, default=False
        Let `fit` start from the weights of the last call. What the network is made of (`cell`, `hidden_size`,
        `dtype`, ...) must then be as it was. Only weights are gone on from: the running means of the solver
        and the schedule begin anew, while `partial_fit` goes on with them.
    dtype : {{"float32", "float64"}}, default="float32"
        What is computed in.
    device : {{"cpu", "cuda"}}, default="cpu"
        Where training and prediction run; what was trained on one is used on the other. All options are for
        both, all cells but "lstm_layernorm": docs/cuda.md.
    n_jobs : int or None, default=None
        Threads; None and -1 for all cores. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the first weights, the order of samples, the validation part and dropout.
    verbose : int, default=0
        If not 0, show progress: a bar on a terminal, a line for each epoch elsewhere.
    momentum : float, default=0.0
        Of "sgd", which without it subtracts exactly rate times gradient.
    nesterovs_momentum : bool, default=True
        Nesterov's kind, where there is momentum.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Part of the running means that "adam" and "adamw" keep in a step; "rmsprop" uses `beta_2`.
    epsilon : float, default=1e-8
        Added to the denominator in "adam", "adamw" and "rmsprop".
    weight_decay : float, default=0.01
        Decoupled weight decay of "adamw".
    init : {{"uniform", "orthogonal"}}, default="uniform"
        First weights as PyTorch's, or as Keras's (but `forget_bias`, which is 1 there).
    forget_bias : float or None, default=None
        First bias of the forget gate of "lstm".
    callbacks : callable, list of callable or None, default=None
        Called after every batch and every epoch, of `partial_fit` after every batch; see
        `numbarnn.training.Trainer`.
    embedding : list of (feature, n_categories, size) or None, default=None
        Categorical features: which of the features of a step (of the `n_channels`) holds whole numbers from 0
        to n_categories - 1. Each is replaced by a learned vector of that size, without L2 penalty; all other
        features stay numbers.
    stem_sizes, head_sizes : sequence of int, default=()
        Units of hidden dense layers (relu): of those that every step passes before the recurrent layers, and
        of those between them and the output.
    residual : bool, default=False
        Add its input to the output of each recurrent layer where both are as wide, as they are from the
        second layer on.
    merge : {{"concat", "sum", "mean", "product"}}, default="concat"
        How the directions of a bidirectional layer become one output.
    recurrent_dropout : float, default=0.0
        Part of h dropped on its way to the next step, with one mask for each sequence, in training.
    zoneout : float or sequence of float, default=0.0
        Probability that a unit keeps its state of the step before, in training; one for each part of the
        state, as (h, c) of "lstm", or one for all. In prediction states are mixed by it.
    stateful : bool, default=False
        Let sample i of a batch begin in the state that sample i of the batch before ended in. The samples are
        consecutive windows: of one long series with ``batch_size=1``, which "auto" stands for, or of m series
        with ``batch_size=m``, the first window of each, then the second of each, and so on. Gradients do not
        go back beyond a window. Each epoch of `fit` begins anew, and `fit` leaves no state behind;
        `partial_fit`, `predict` and all that predicts go on from the call before, until `reset_states`; then
        `batch_size` may also be set to another number of series. Samples are not shuffled, `batch_size` must
        divide their number, and `early_stopping` holds out the last. Not for a bidirectional network.
    proj_size : int, default=0
        Of "lstm": if not 0, h is a projection of that many units, fewer than `hidden_size`."""

_ATTRIBUTES = """loss_curve_ : list of float
        Mean training loss of each epoch.
    loss_, best_loss_ : float
        The last and the lowest of them.
    validation_scores_ : list of float or None
        With early stopping, minus the loss of the validation part after each epoch.
    best_validation_score_ : float or None
    n_iter_ : int
        Epochs done.
    t_ : int
        Samples trained on, times epochs; an epoch that was cut short counts as one.
    n_outputs_ : int
        Targets; of a classifier, raw outputs.
    n_features_in_ : int
        Columns of two-dimensional X, features of a step in three-dimensional X.
    feature_names_in_ : ndarray of str
        Only where X was a table with names.
    network_ : Network"""


def document(**words: str):
    """Fill in the parts of the docstring that both estimators share."""

    def fill(cls):
        parameters = _PARAMETERS.format(**words)
        cls.__doc__ = cls.__doc__.replace("<parameters>", parameters).replace("<attributes>", _ATTRIBUTES)
        return cls

    return fill
