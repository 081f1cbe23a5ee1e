"""The causes that triage can name: a stable name, a sentence for people, the smallest fix."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that breaks trainings.

    Attributes:
        name: Stable name, in snake case.
        meaning: What is wrong, a clause.
        fix: The smallest change that cures it, a clause.
    """

    name: str
    meaning: str
    fix: str


_CAUSES = (
    # The loss.
    Cause("loss_sum", "the loss is summed over the batch, not averaged", "divide the sum by the number of known labels"),
    Cause("accum_nodiv", "the loss counts several times, as of accumulated parts that are not divided", "divide the loss of each part by the number of parts"),
    Cause("double_sigmoid", "the loss is given probabilities and applies a sigmoid again", "give the loss logits"),
    Cause("sign_flip", "the loss has the wrong sign: it is maximised", "remove the minus sign"),
    Cause("log0", "the loss is computed from probabilities and is not finite, or flat, once a prediction saturates", "compute it from logits (binary_cross_entropy_with_logits)"),
    Cause("unknown_as_zero", "labels that are not known are learnt", "mask labels below 0 with torch.where"),
    Cause("mask_drops_labels", "known labels have no part in the loss", "let the mask keep every label that is 0 or 1"),
    Cause("mask_empty", "a task without a known label in the batch makes the loss NaN, or adds to it", "divide the sum by count.clamp_min(1)"),
    Cause("weights_misapplied", "the weights of the labels are not applied, or applied twice", "multiply each label's loss by its weight once"),
    Cause("class_weights", "the two classes are weighted, so that predictions are not probabilities", "remove the weights of the classes, or correct the predictions"),
    Cause("task_weight_huge", "the loss of one task drowns the others", "bring the weights of the tasks to one scale"),
    Cause("wrong_loss", "the loss is another function than the one that is declared", "use the loss that the spec names"),
    Cause("strong_smoothing", "labels are smoothed so much that predictions are drawn to the base rate", "smooth by some hundredths, or not at all"),
    Cause("loss_scaled", "the loss is multiplied by a constant", "remove the factor"),
    # Gradients between backward and update.
    Cause("missing_zero_grad", "gradients of earlier steps are never cleared", "call zero_grad of every optimizer in each step"),
    Cause("clip_per_param", "each tensor is clipped by its own norm", "clip all tensors by their common norm"),
    Cause("clip_by_value", "gradients are limited value by value", "clip all tensors by their common norm"),
    Cause("clip_too_tight", "clipping shortens every gradient to almost nothing", "raise clip_norm above the norms of healthy steps"),
    Cause("amp_no_unscale", "gradients are not divided by the loss scale", "call scaler.unscale_ before clipping"),
    Cause("amp_no_scaling", "gradients are computed in 16 bits without a scaled loss, and underflow", "scale the loss (GradScaler), or use bf16"),
    Cause("gradient_zeroed", "gradients of a part of the model are set to 0 before the update", "remove what clears them"),
    Cause("gradient_reversed", "gradients of a part of the model have the wrong sign when the optimizer gets them", "remove the minus sign, or maximize=True"),
    Cause("stale_gradients", "an update follows the gradients of an earlier step", "wait for the gradients of the step before its update"),
    Cause("gradient_changed", "something changes gradients between backward and the update", "let optimizers receive the gradients of the loss"),
    # Optimizers and updates.
    Cause("optimizer_misses_table", "no optimizer holds a parameter", "add it to a parameter group"),
    Cause("stale_optimizer", "an optimizer was built before a part of the model was replaced", "build optimizers last"),
    Cause("parameter_held_twice", "a parameter is held by two optimizers, or twice by one", "leave it in one group"),
    Cause("frozen_tower", "requires_grad of a part of the model is False", "set it to True"),
    Cause("detached_tower", "no gradient reaches a part of the model: its output is detached, not used, or multiplied by almost 0", "remove detach(), no_grad() or what closes it"),
    Cause("huge_lr", "the learning rate is too high", "lower it to its default"),
    Cause("tiny_lr", "the learning rate is too low, or 0: weights hardly move", "raise it to its default"),
    Cause("l2_in_adam", "a penalty or a decay moves rows that the batch does not read", "regularise the rows of the batch, or decouple the decay"),
    Cause("huge_weight_decay", "decay or a penalty draws weights to 0 faster than they learn", "lower it to its default"),
    Cause("optimizer_settings", "settings of an optimizer (betas, momentum, epsilon) are far from usual ones", "use its defaults"),
    Cause("optimizer_state_differs", "the state of an optimizer is not that of a new one before the first step, or is not what its updates leave", "build optimizers anew, or load their state with the weights that it belongs to"),
    Cause("optimizer_state_reset", "the state of an optimizer is lost between steps", "keep the optimizer, and its state, for the whole training"),
    Cause("weights_overwritten", "something beside the optimizers writes weights: they do not move as their optimizer would move them", "let the optimizer alone write weights"),
    # Initial state and model.
    Cause("new_embedding_huge", "a table starts with values many times those of the others", "start embeddings near 0"),
    Cause("bad_init_large", "the weights of layers start many times too large", "initialise by fan-in"),
    Cause("bad_init_small", "weights start so small that nothing passes", "initialise by fan-in"),
    Cause("bad_init_const", "the units of a layer start with equal weights", "draw them at random"),
    Cause("no_base_rate", "the bias of the head is not that of the base rate", "start it from the logit of the rate"),
    Cause("padding_row_trained", "the row for the places after the end of a list is not 0, or is learnt", "give the table its padding_idx"),
    Cause("dead_relu", "the units of a layer are flat for every row", "start biases at 0, and normalise what comes in"),
    Cause("wrong_offsets", "a feature reads rows of another one in a table that they share", "pack the dataset again, and build the model from its layout"),
    Cause("eval_mode", "modules are in evaluation mode while training", "call model.train() before each epoch"),
    Cause("random_in_evaluation", "the model draws random numbers, or changes, in evaluation mode too", "ask for module.training"),
    Cause("bounded_logits", "logits are squashed or cut off: predictions cannot come near 0 or 1", "remove what limits them"),
    Cause("temperature", "logits are multiplied by a constant", "remove the factor: a temperature belongs to the calibration"),
    Cause("feature_ignored", "a feature has no way into the model", "let the model read it"),
    Cause("batch_mixing", "a row's prediction depends on the other rows of its batch", "normalise over features, not over the batch"),
    Cause("dropout_too_high", "dropout leaves almost nothing of what is before it", "lower it to .5 or less"),
    Cause("fp16_embedding", "weights are stored in 16 bits: small updates are lost", "keep weights in float32"),
    Cause("nonfinite_weight", "a weight, a buffer or an optimizer's state is not finite before the step", "find what wrote it, and start from the last good checkpoint"),
    # Rows.
    Cause("label_permute", "labels stand beside rows that are not theirs, in random order", "join labels by their key"),
    Cause("row_shift", "labels are shifted by some rows", "join labels by their key"),
    Cause("label_flip", "labels are exchanged: 1 for 0", "give the positive outcome the label 1"),
    Cause("label_noise", "a share of the labels is wrong", "look at how outcomes are matched to impressions"),
    Cause("mask_inverted", "outcomes of a later step of the funnel happen without the step before: a mask is inverted, or tasks are exchanged", "take the labels of each task from its own events"),
    Cause("base_rate_shift", "the share of positives of the training rows is not that of the rows that are validated", "correct for the sampling, and mature labels alike"),
    Cause("leak", "a feature is made of the outcome", "read the feature as of the impression"),
    Cause("hash_clip", "ids are cut off or hashed to few rows", "build the vocabulary of these rows"),
    Cause("ids_misplaced", "ids of a feature are not those of its vocabulary", "pack the dataset again with the vocabulary of these rows"),
    Cause("id_out_of_range", "an id lies outside its table", "pack the dataset again"),
    Cause("unnormalised_feature", "a number has another scale than its training statistics", "pack the dataset again"),
    Cause("infinite_feature", "a number is infinite", "make it finite or missing at ingestion"),
    Cause("log_of_negative", "a step of the forward pass is not finite for finite inputs, as the log of a negative number", "limit what comes into it (clamp, log1p of what is not negative)"),
    Cause("feature_missing", "a feature is missing, or has one value, where it should not", "restore the feature at its source"),
    Cause("train_serving_skew", "later rows have a feature, or labels, that are made otherwise than those of the training rows", "make both by the same code"),
    Cause("feature_permuted", "values of a feature stand beside rows that are not theirs", "join the feature by its key"),
    Cause("feature_drift", "a feature of the training rows is distributed unlike the one of the rows that are validated", "look at what changed at its source"),
    Cause("ips_unclipped", "inverse propensities are not limited: few rows decide the gradient", "limit weights, and let their mean be 1"),
    Cause("weights_scaled", "the mean of the weights is far from 1", "divide weights by their mean"),
    Cause("bad_weight", "a weight is negative or not finite", "limit weights to finite values that are not negative"),
    Cause("stale_batch", "batches repeat, or rows are never read", "let the loader move on"),
    Cause("rows_not_shuffled", "batches are no random samples of the rows: they are read in an order that goes with the outcome", "shuffle the rows in each epoch"),
    Cause("open_window", "outcomes of the last training rows were not yet known when they were read, and count as none", "wait for the window to close, or leave open labels out"),
    Cause("duplicate_rows", "rows of the log are there several times", "deduplicate impressions by their key"),
    # Stages that do otherwise than declared, in a form that no other cause has.
    Cause("rows_differ", "the rows in memory are not those of the packed dataset", "let the training read the packed files as they are"),
    Cause("batch_differs", "batches are not the rows that the order of the epoch gives", "hand the loader's batches on as they are"),
    Cause("initial_differs", "parts, weights or buffers before the first step are not those of the declared model and its seed", "build the model from the job alone"),
    Cause("forward_differs", "a part of the model computes something else than is declared", "remove what changes it, or declare it"),
    Cause("loss_differs", "the loss, or its gradient at the logits, is not that of the declared objectives", "use the objectives that the spec names"),
    Cause("gradient_differs", "gradients of parameters are not those of the loss", "remove what changes them between loss and optimizer"),
    Cause("update_differs", "weights move otherwise than the declared optimizers and schedule move them", "build optimizers and schedule from the job alone"),
    Cause("update_skipped", "an optimizer makes no update in some steps", "let every optimizer step once in each step"),
    Cause("scoring_differs", "the stored model does not predict as it did when it was chosen", "store the weights that were validated, and score with the same code"),
    # Of no stage.
    Cause("not_reproduced", "the recorded first steps are not those of the training as it is built now", "look for what the job does not say: code, rows or settings of the machine that have changed, or a state from outside"),
    # Two at once.
    Cause("unnormalised_embedding_and_unclipped_weights", "a table starts with large values, and unlimited weights multiply its gradients: either alone is survived", "start the table near 0 and limit the weights; clipping alone hides it"),
)  # fmt: skip

CAUSES: dict[str, Cause] = {cause.name: cause for cause in _CAUSES}
"""All causes by name."""

INTERACTIONS: dict[frozenset[str], str] = {
    frozenset({"new_embedding_huge", "ips_unclipped"}): "unnormalised_embedding_and_unclipped_weights",
    frozenset({"new_embedding_huge", "weights_scaled"}): "unnormalised_embedding_and_unclipped_weights",
}
"""Causes that explain more together than one by one, with the name that they have together."""


def cause_named(name: str) -> Cause:
    """The cause ``name``.

    Raises:
        KeyError: there is none.
    """
    return CAUSES[name]
