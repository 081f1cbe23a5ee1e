"""Sections in several kinds: dispatch, messages, and kinds that are added later."""

from typing import Annotated, Literal

import pytest
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from ctr_pipeline.errors import UserError
from ctr_pipeline.spec.fields import Section, added_field
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.position import NoPosition
from ctr_pipeline.spec.variants import Registry, Variant, Variants


class Shape(Variant):
    """Base of the shapes."""


class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius: float = Field(gt=0)


SHAPES: Variants[Shape] = Variants(Shape, Circle)


class Drawing(Section):
    shape: Annotated[SerializeAsAny[Shape], BeforeValidator(SHAPES.validate)]


class Grown(Section):
    old: int = 1
    new: int = added_field(3, "Came later.")


def problem(**content: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(content)
    return str(caught.value)


def test_a_mapping_becomes_the_section_of_its_kind_and_back() -> None:
    drawing = Drawing.model_validate({"shape": {"kind": "circle", "radius": 2}})
    assert isinstance(drawing.shape, Circle)
    assert drawing.model_dump() == {"shape": {"kind": "circle", "radius": 2.0}}
    assert Drawing.model_validate(drawing.model_dump()) == drawing


def test_the_name_of_a_kind_is_enough_where_its_fields_have_defaults() -> None:
    assert Model.model_validate({"position": "none"}).position == NoPosition()
    assert "radius: required, but absent" in problem(shape="circle")


def test_messages_name_what_is_known() -> None:
    assert "set `kind` to one of 'circle'; found 'circel', did you mean 'circle'?" in problem(shape={"kind": "circel"})
    assert "set `kind` to one of 'circle'" in problem(shape={"radius": 1})
    assert "a kind, or a mapping with the key `kind`, is expected, found 3" in problem(shape=3)
    assert "radius: Input should be greater than 0" in problem(shape={"kind": "circle", "radius": -1})
    assert "radios: unknown key; did you mean `radius`?" in problem(shape={"kind": "circle", "radius": 1, "radios": 2})


def test_a_kind_that_is_added_later_is_known_to_sections_made_before() -> None:
    class Square(Shape):
        kind: Literal["square"] = "square"
        side: float

    SHAPES.add(Square)
    assert Drawing.model_validate({"shape": {"kind": "square", "side": 1}}).model_dump()["shape"]["side"] == 1
    assert "one of 'circle', 'square'" in problem(shape={"kind": "line"})


def test_a_section_needs_a_kind() -> None:
    class Nameless(Shape):
        pass

    with pytest.raises(TypeError, match="declare `kind"):
        SHAPES.add(Nameless)


def test_a_field_that_came_later_is_dumped_only_where_it_is_used() -> None:
    assert Grown().model_dump() == {"old": 1}
    assert Grown(new=4).model_dump(mode="json") == {"old": 1, "new": 4}
    assert Grown.model_validate({"old": 1}) == Grown()


class ShapeError(UserError):
    pass


class Ring(Shape):
    kind: Literal["ring"] = "ring"
    width: float = 1.0


def draw_ring(canvas: str, section: Ring) -> str:
    return f"ring of width {section.width} on {canvas}"


def draw_dot(canvas: str) -> str:
    return f"dot on {canvas}"


def test_a_registered_part_receives_the_arguments_and_then_its_section() -> None:
    drawn: Registry[Shape, str] = Registry("shape", SHAPES, ShapeError)
    drawn.add("ring", draw_ring, Ring)
    drawn.add("dot", draw_dot, None)
    ring, dot = (Drawing.model_validate({"shape": {"kind": kind}}).shape for kind in ("ring", "dot"))
    assert drawn.build(ring, "paper") == "ring of width 1.0 on paper"
    assert drawn.build(dot, "paper") == "dot on paper"
    with pytest.raises(
        ShapeError, match=r"no shape is registered under kind 'circle'; registered: dot, ring\. Install"
    ):
        drawn.build(Circle(radius=1), "paper")


@pytest.mark.parametrize("kind", ["", "Dot", "a dot", "1dot", "a.dot", "dot-like"])
def test_a_kind_is_a_name(kind: str) -> None:
    with pytest.raises(ValueError, match="a kind starts with a letter and has only a-z, 0-9 and _"):
        Registry("shape", SHAPES, ShapeError).add(kind, draw_dot, None)
