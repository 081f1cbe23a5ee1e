"""Clues become hypotheses: they add up, consequences are set back, two causes may act together, doubt is never called sure."""

from ctr_pipeline.gradients.triage.causes import CAUSES, INTERACTIONS
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence
from ctr_pipeline.gradients.triage.ranking import EXPLAINS, rank, triage
from ctr_pipeline.gradients.triage.run_rules import reproduction_clues


def clue(cause: str, weight: float, text: str = "", *, separating: bool = False, against: bool = False) -> Clue:
    return Clue(cause=cause, weight=weight, text=text or f"{cause} {weight}", separating=separating, against=against)


def test_without_clues_the_cause_is_unknown() -> None:
    found = rank([])
    assert found.unknown
    assert not found.sure
    assert triage(RunEvidence()).unknown
    assert rank([clue("huge_lr", 0.1)]).unknown


def test_clues_of_one_cause_add_up_and_the_same_one_counts_once() -> None:
    (found,) = rank([clue("huge_lr", 0.5, "a"), clue("huge_lr", 0.5, "b"), clue("huge_lr", 0.5, "b")]).hypotheses
    assert found.score == 0.75
    assert found.evidence == ("a", "b")
    assert found.fix == CAUSES["huge_lr"].fix


def test_what_speaks_against_a_cause_is_kept_and_forbids_to_be_sure() -> None:
    found = rank([clue("leak", 0.99, separating=True), clue("leak", 0.05, "it is so in validation too", against=True)])
    assert found.hypotheses[0].against == ("it is so in validation too",)
    assert not found.sure


def test_sure_needs_separating_evidence_and_a_lead() -> None:
    assert rank([clue("leak", 0.95, separating=True)]).sure
    assert not rank([clue("leak", 0.95)]).sure
    assert not rank([clue("leak", 0.95, separating=True), clue("row_shift", 0.9, separating=True)]).sure


def test_a_consequence_is_set_back_behind_its_cause() -> None:
    found = rank([clue("no_base_rate", 0.9), clue("new_embedding_huge", 0.9, separating=True)])
    assert [h.cause for h in found.hypotheses] == ["new_embedding_huge", "no_base_rate"]
    assert found.sure
    assert "new_embedding_huge explains it" in found.hypotheses[1].against


def test_two_causes_that_act_together_are_named_as_one() -> None:
    found = rank([clue("new_embedding_huge", 0.9, separating=True), clue("ips_unclipped", 0.7)])
    assert found.hypotheses[0].cause == "unnormalised_embedding_and_unclipped_weights"
    assert {h.cause for h in found.hypotheses[1:]} == {"new_embedding_huge", "ips_unclipped"}
    alone = rank([clue("new_embedding_huge", 0.9, separating=True), clue("ips_unclipped", 0.35)])
    assert alone.hypotheses[0].cause == "new_embedding_huge"


def test_steps_that_are_not_those_that_were_recorded_are_told() -> None:
    recorded = [{"step": step, "loss": 0.7 - 0.01 * step} for step in range(4)]
    losses = [0.7, 0.69, 0.68]
    assert not list(reproduction_clues(recorded, losses))
    assert not list(reproduction_clues(recorded, [loss * 1.01 for loss in losses]))
    assert not list(reproduction_clues([], losses))
    assert not list(reproduction_clues([{"step": 0, "loss": float("nan")}], losses))
    (found,) = reproduction_clues(recorded, [0.7, 0.8, 0.9])
    assert (found.cause, found.weight, found.separating) == ("not_reproduced", 0.5, False)
    assert "step 1 was recorded as 0.69, and is 0.8" in found.text


def test_strong_smoothing_is_named_and_a_little_is_not() -> None:
    for share, expected in ((0.1, []), (0.3, ["strong_smoothing"])):
        assert [h.cause for h in triage(RunEvidence(settings={"label_smoothing": share})).hypotheses] == expected


def test_all_names_are_of_the_catalogue() -> None:
    assert {name for names in EXPLAINS.values() for name in names} | set(EXPLAINS) <= set(CAUSES)
    assert {name for pair in INTERACTIONS for name in pair} | set(INTERACTIONS.values()) <= set(CAUSES)
