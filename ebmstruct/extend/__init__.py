"""What a plugin author meets: hooks, tasks, examples, schemas, report sections; importing it leaves torch alone."""

from ebmstruct.extend.generative import Generative
from ebmstruct.extend.hookspecs import hookimpl
from ebmstruct.extend.task import Cases, Chart, Evaluation, Example, Inference, Picture, Schema, Section, Table, Task

__all__ = [
    "Cases",
    "Chart",
    "Evaluation",
    "Example",
    "Generative",
    "Inference",
    "Picture",
    "Schema",
    "Section",
    "Table",
    "Task",
    "hookimpl",
]
