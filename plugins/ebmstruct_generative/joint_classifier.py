"""The energy ``generative.joint_classifier``: a classifier of records as an energy of a record and its class."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ebmstruct import JointClassifier as ClassifierEnergy
from ebmstruct.errors import DataError
from ebmstruct_generative.records import CLASS, RECORD, RecordSchema


class JointClassifier(ClassifierEnergy):
    """E(record, class) = -f_class(record) + |record|^2 / (2 spread^2) (Grathwohl et al. 2020).

    hidden: units of each layer of a perceptron, with smooth activations between.  filters: channels of convolutions that
    halve a picture each, before the perceptron; none for other records.  kernel: pixels, odd.
    spread: of the square that keeps the density normalisable; null leaves it out.
    Train it by ``hybrid_likelihood``. It takes records of any task with classes.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        hidden: tuple[int, ...] = (256, 256),
        filters: tuple[int, ...] = (),
        kernel: int = 3,
        spread: float | None = 1.0,
    ) -> None:
        if len(schema.classes) < 2:
            raise DataError(
                f"a joint classifier needs records of at least two classes; the training data have {len(schema.classes)}"
            )
        if min((1, *hidden, *filters, kernel)) < 1:
            raise DataError(f"hidden, filters and kernel must be at least 1; found {hidden}, {filters} and {kernel}")
        layers: list[nn.Module] = []
        width = schema.dim
        if filters:
            if len(schema.shape) != 3 or kernel % 2 == 0:
                raise DataError(
                    f"filters need pictures and an odd kernel; found records {schema.shape}, kernel {kernel}"
                )
            channels, height, wide = schema.shape
            layers.append(nn.Unflatten(1, schema.shape))
            for before, after in pairwise((channels, *filters)):
                layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.SiLU()]
                height, wide = (height + 1) // 2, (wide + 1) // 2
            layers.append(nn.Flatten())
            width = filters[-1] * height * wide
        for before, after in pairwise((width, *hidden)):
            layers += [nn.Linear(before, after), nn.SiLU()]
        layers.append(nn.Linear((width, *hidden)[-1], len(schema.classes)))
        super().__init__(
            nn.Sequential(*layers), schema.dim, len(schema.classes), spread=spread, block=RECORD, class_block=CLASS
        )
