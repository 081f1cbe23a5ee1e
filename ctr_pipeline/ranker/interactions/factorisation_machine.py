"""The pairwise term of a factorisation machine."""

from torch import Tensor, nn

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.shapes import InputShape, check_shape
from ctr_pipeline.spec.interactions import FactorisationMachine


class PairwiseProducts(nn.Module):
    """Sum of the inner products of all pairs of embeddings: y = Σ_{i<j} ⟨v_i, v_j⟩ (Rendle, ICDM 2010).

    Computed as ½ Σ_k ((Σ_i v_ik)² − Σ_i v_ik²), in O(F·d) instead of O(F²·d). It has no weights of its own: the
    embeddings are those that the tower reads, the linear term is the ranker's wide part, and the heads weigh y for each
    task. Numbers have no embedding and take no part.

    Args:
        shape: The ranker's inputs.

    Raises:
        RankerError: there are fewer than two embeddings, or they differ in width.
    """

    out_width = 1

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        group = shape.equal_width_group("factorisation_machine")
        self._fields, self._width = len(group.columns), group.width
        if self._fields < 2:
            raise RankerError(
                f"factorisation_machine multiplies pairs of embeddings, but {group.columns[0]} is the only embedded "
                "feature: declare another, or remove factorisation_machine from `model.interactions`"
            )

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, 1] from embeddings [B, F, d]."""
        (vectors,) = fields
        rows = numbers.shape[0]
        check_shape("embeddings of factorisation_machine", vectors, self._fields, self._width, rows=rows)
        of_sum = vectors.sum(dim=1).square()
        sum_of = vectors.square().sum(dim=1)
        return 0.5 * (of_sum - sum_of).sum(dim=1, keepdim=True)


def build(shape: InputShape, section: FactorisationMachine) -> PairwiseProducts:  # noqa: ARG001
    """The module of a spec's section, which has no fields."""
    return PairwiseProducts(shape)
