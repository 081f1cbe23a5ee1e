"""The causes that triage can name: a stable name, a sentence for people, the smallest fix."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that breaks trainings.

    Attributes:
        name: Stable name, in snake case.
        meaning: What is wrong, a clause.
        fix: The smallest change that cures it, a clause.
        covers: Names of drilled faults that this cause explains, beside one of its own name.
    """

    name: str
    meaning: str
    fix: str
    covers: tuple[str, ...] = ()

    def explains(self, fault: str) -> bool:
        """Whether it is the right name for the drilled ``fault``."""
        return fault == self.name or fault in self.covers


_CAUSES = (
    # The loss.
    Cause("loss_sum", "the loss is summed over the batch, not averaged", "divide the sum by the number of known labels"),
    Cause("accum_nodiv", "the loss counts several times, as of accumulated parts that are not divided", "divide the loss of each part by the number of parts"),
    Cause("double_sigmoid", "the loss is given probabilities and applies a sigmoid again", "give the loss logits"),
    Cause("sign_flip", "the loss has the wrong sign: it is maximised", "remove the minus sign"),
    Cause("log0", "the loss is computed from probabilities and is not finite, or flat, once a prediction saturates", "compute it from logits (binary_cross_entropy_with_logits)"),
    Cause("unknown_as_zero", "labels that are not known are learnt", "mask labels below 0 with torch.where", ("unknown_as_negative",)),
    Cause("mask_drops_labels", "known labels have no part in the loss", "let the mask keep every label that is 0 or 1", ("mask_inverted_loss", "labels_dropped")),
    Cause("mask_empty", "a task without a known label in the batch makes the loss NaN, or adds to it", "divide the sum by count.clamp_min(1)"),
    Cause("weights_misapplied", "the weights of the labels are not applied, or applied twice", "multiply each label's loss by its weight once", ("weights_twice", "weights_missing", "weights_ignored", "weights_other")),
    Cause("class_weights", "the two classes are weighted, so that predictions are not probabilities", "remove the weights of the classes, or correct the predictions", ("pos_weight",)),
    Cause("task_weight_huge", "the loss of one task drowns the others", "bring the weights of the tasks to one scale", ("task_weight_wrong", "task_weight_twice", "task_weight_missing")),
    Cause("wrong_loss", "the loss is another function than the one that is declared", "use the loss that the spec names", ("squared_error", "other_loss", "mse_loss", "clamped", "clamped_logits", "mean_over_rows", "divided_twice")),
    Cause("loss_scaled", "the loss is multiplied by a constant", "remove the factor", ("loss_scale", "scaled_loss")),
    # Gradients between backward and update.
    Cause("missing_zero_grad", "gradients of earlier steps are never cleared", "call zero_grad of every optimizer in each step"),
    Cause("clip_per_param", "each tensor is clipped by its own norm", "clip all tensors by their common norm", ("clip_per_parameter", "clip_per_layer")),
    Cause("clip_by_value", "gradients are limited value by value", "clip all tensors by their common norm", ("clip_value",)),
    Cause("clip_too_tight", "clipping shortens every gradient to almost nothing", "raise clip_norm above the norms of healthy steps", ("tiny_clip", "clip_norm_tiny")),
    Cause("amp_no_unscale", "gradients are not divided by the loss scale", "call scaler.unscale_ before clipping"),
    Cause("amp_no_scaling", "gradients are computed in 16 bits without a scaled loss, and underflow", "scale the loss (GradScaler), or use bf16"),
    Cause("gradient_zeroed", "gradients of a part of the model are set to 0 before the update", "remove what clears them", ("zeroed_gradient", "gradient_dropped")),
    Cause("gradient_reversed", "gradients of a part of the model have the wrong sign when the optimizer gets them", "remove the minus sign, or maximize=True", ("gradient_ascent", "gradient_sign", "maximize")),
    Cause("gradient_changed", "something changes gradients between backward and the update", "let optimizers receive the gradients of the loss", ("gradient_noise", "noisy_gradient", "stale_gradient", "gradient_scaled_per_layer")),
    # Optimizers and updates.
    Cause("optimizer_misses_table", "no optimizer holds a parameter", "add it to a parameter group", ("optimizer_misses_new_table", "optimizer_misses_layer", "optimizer_misses_parameter", "optimizer_misses_bias")),
    Cause("stale_optimizer", "an optimizer was built before a part of the model was replaced", "build optimizers last", ("replaced_head", "replaced_table")),
    Cause("parameter_held_twice", "a parameter is held by two optimizers, or twice by one", "leave it in one group", ("held_twice", "duplicate_parameter", "two_optimizers")),
    Cause("frozen_tower", "requires_grad of a part of the model is False", "set it to True", ("frozen_table", "frozen_layer", "frozen_head", "frozen_parameter")),
    Cause("detached_tower", "no gradient reaches a part of the model: its output is detached, or not used", "remove detach() or no_grad()", ("detached_table", "detached_embedding", "detached", "ignored_tower")),
    Cause("huge_lr", "the learning rate is too high", "lower it to its default", ("learning_rate_too_high", "huge_table_lr", "huge_embedding_lr", "no_warmup")),
    Cause("tiny_lr", "the learning rate is too low, or 0: weights hardly move", "raise it to its default", ("learning_rate_too_low", "zero_lr", "lr_zero", "schedule_to_zero")),
    Cause("l2_in_adam", "a penalty or a decay moves rows that the batch does not read", "regularise the rows of the batch, or decouple the decay", ("weight_decay_in_adam", "decay_of_tables")),
    Cause("huge_weight_decay", "decay or a penalty draws weights to 0 faster than they learn", "lower it to its default", ("weight_decay_huge", "l2_huge", "embedding_l2_huge")),
    Cause("optimizer_settings", "settings of an optimizer (betas, momentum, epsilon) are far from usual ones", "use its defaults", ("momentum_huge", "adam_epsilon", "huge_epsilon", "epsilon_zero", "eps_zero", "betas")),
    Cause("optimizer_state_reset", "the state of an optimizer is lost between steps", "keep the optimizer, and its state, for the whole training", ("state_reset", "fresh_optimizer")),
    Cause("weights_overwritten", "something beside the optimizers writes weights: they do not move as their optimizer would move them", "let the optimizer alone write weights", ("weights_reset", "table_reset", "update_skipped", "update_twice", "double_step")),
    # Initial state and model.
    Cause("new_embedding_huge", "a table starts with values many times those of the others", "start embeddings near 0", ("huge_table", "embedding_init_large")),
    Cause("bad_init_large", "the weights of layers start many times too large", "initialise by fan-in", ("init_large",)),
    Cause("bad_init_small", "weights start so small that nothing passes", "initialise by fan-in", ("zero_init", "init_zero", "init_small", "vanishing_init")),
    Cause("bad_init_const", "the units of a layer start with equal weights", "draw them at random", ("init_constant",)),
    Cause("no_base_rate", "the bias of the head is not that of the base rate", "start it from the logit of the rate", ("bias_wrong",)),
    Cause("padding_row_trained", "the row for the places after the end of a list is not 0, or is learnt", "give the table its padding_idx"),
    Cause("dead_relu", "the units of a layer are flat for every row", "start biases at 0, and normalise what comes in", ("dead_units", "saturated_units")),
    Cause("wrong_offsets", "a feature reads rows of another one in a table that they share", "pack the dataset again, and build the model from its layout", ("shared_rows", "offset_collapse")),
    Cause("eval_mode", "modules are in evaluation mode while training", "call model.train() before each epoch", ("batch_norm_eval",)),
    Cause("random_in_evaluation", "the model draws random numbers, or changes, in evaluation mode too", "ask for module.training", ("dropout_in_evaluation",)),
    Cause("bounded_logits", "logits are squashed or cut off: predictions cannot come near 0 or 1", "remove what limits them", ("tanh_logits", "clamped_output")),
    Cause("feature_ignored", "a feature has no way into the model", "let the model read it", ("feature_not_read", "ignored_feature")),
    Cause("batch_mixing", "a row's prediction depends on the other rows of its batch", "normalise over features, not over the batch", ("batch_leak", "cross_sample")),
    Cause("dropout_too_high", "dropout leaves almost nothing of what is before it", "lower it to .5 or less", ("dropout_huge", "huge_dropout")),
    Cause("fp16_embedding", "weights are stored in 16 bits: small updates are lost", "keep weights in float32", ("fp16_weights", "half_weights", "bf16_weights")),
    Cause("nonfinite_weight", "a weight, a buffer or an optimizer's state is not finite before the step", "find what wrote it, and start from the last good checkpoint", ("nan_weight", "inf_row", "nan_buffer", "inf_weight")),
    # Rows.
    Cause("label_permute", "labels stand beside rows that are not theirs, in random order", "join labels by their key", ("label_permute_half", "labels_half_permuted", "partial_permute", "label_permuted_within_day")),
    Cause("row_shift", "labels are shifted by some rows", "join labels by their key"),
    Cause("label_flip", "labels are exchanged: 1 for 0", "give the positive outcome the label 1", ("labels_inverted", "label_inverted", "flipped_labels")),
    Cause("label_noise", "a share of the labels is wrong", "look at how outcomes are matched to impressions", ("labels_noisy", "noisy_labels", "random_labels")),
    Cause("mask_inverted", "outcomes of a later step of the funnel happen without the step before: a mask is inverted, or tasks are exchanged", "take the labels of each task from its own events", ("tasks_swapped", "tasks_exchanged", "label_columns_swapped")),
    Cause("base_rate_shift", "the share of positives of the training rows is not that of the rows that are validated", "correct for the sampling, and mature labels alike", ("negatives_dropped", "downsampled_uncorrected", "immature_labels", "negative_sampling")),
    Cause("leak", "a feature is made of the outcome", "read the feature as of the impression", ("noisy_leak", "leak_id", "id_leak", "target_encoding_leak")),
    Cause("hash_clip", "ids are cut off or hashed to few rows", "build the vocabulary of these rows", ("hash_collapse", "partial_hash_collapse", "id_collapse", "ids_unknown", "unknown_ids")),
    Cause("ids_misplaced", "ids of a feature are not those of its vocabulary", "pack the dataset again with the vocabulary of these rows", ("vocabulary_mismatch", "ids_permuted", "columns_swapped", "id_columns_swapped", "shuffled_ids")),
    Cause("id_out_of_range", "an id lies outside its table", "pack the dataset again"),
    Cause("unnormalised_feature", "a number has another scale than its training statistics", "pack the dataset again", ("unit_change", "feature_scale", "wrong_unit", "wrong_statistics")),
    Cause("infinite_feature", "a number is infinite", "make it finite or missing at ingestion", ("inf_feature",)),
    Cause("log_of_negative", "a step of the forward pass is not finite for finite inputs, as the log of a negative number", "limit what comes into it (clamp, log1p of what is not negative)", ("nan_in_forward", "division_by_zero")),
    Cause("feature_missing", "a feature is missing, or has one value, where it should not", "restore the feature at its source", ("feature_constant", "constant_feature", "missing_feature", "feature_dropped", "feature_zeroed", "nan_feature_at_step", "nan_feature")),
    Cause("train_serving_skew", "later rows have a feature, or labels, that are made otherwise than those of the training rows", "make both by the same code", ("validation_skew", "serving_skew", "feature_skew", "validation_permuted")),
    Cause("feature_permuted", "values of a feature stand beside rows that are not theirs", "join the feature by its key", ("feature_shuffled", "shuffled_feature", "feature_join", "feature_shift")),
    Cause("feature_drift", "a feature of the training rows is distributed unlike the one of the rows that are validated", "look at what changed at its source", ("sign_flipped_feature", "feature_sign")),
    Cause("ips_unclipped", "inverse propensities are not limited: few rows decide the gradient", "limit weights, and let their mean be 1", ("heavy_weights", "weights_unclipped")),
    Cause("weights_scaled", "the mean of the weights is far from 1", "divide weights by their mean", ("weights_unnormalised",)),
    Cause("bad_weight", "a weight is negative or not finite", "limit weights to finite values that are not negative", ("negative_weights", "nan_weights")),
    Cause("stale_batch", "batches repeat, or rows are never read", "let the loader move on", ("repeated_batch", "no_shuffle", "same_batch")),
    Cause("duplicate_rows", "rows of the log are there several times", "deduplicate impressions by their key", ("rows_duplicated", "duplicated_rows")),
    # Two at once.
    Cause("refactor_incident", "a table starts with large values, and unlimited weights multiply its gradients: either alone is survived", "start the table near 0 and limit the weights; clipping alone hides it"),
)  # fmt: skip

CAUSES: dict[str, Cause] = {cause.name: cause for cause in _CAUSES}
"""All causes by name."""

INTERACTIONS: dict[frozenset[str], str] = {
    frozenset({"new_embedding_huge", "ips_unclipped"}): "refactor_incident",
    frozenset({"new_embedding_huge", "weights_scaled"}): "refactor_incident",
}
"""Causes that explain more together than one by one, with the name that they have together."""


def cause_named(name: str) -> Cause:
    """The cause ``name``.

    Raises:
        KeyError: there is none.
    """
    return CAUSES[name]


def is_right(cause: str, fault: str) -> bool:
    """Whether naming ``cause`` is right for the drilled ``fault``."""
    return cause in CAUSES and CAUSES[cause].explains(fault)
