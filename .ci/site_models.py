"""An extension of Griffe, which reads the code for the site: shows that models are called with their fields only.

Griffe knows this of dataclasses. The broker's models inherit their constructor from `broker.values.model.Model`, whose
signature takes any arguments, because pydantic checks them.
"""

from __future__ import annotations

from typing import Any

from griffe import Attribute, Class, Extension, Function, Parameter, ParameterKind, Parameters


class Models(Extension):
    """Gives each subclass of `Model` the constructor that users see."""

    def on_class(self, *, cls: Class, **_: Any) -> None:
        """Called for each class when its members are known."""
        if not any(str(base) == "Model" for base in cls.bases):
            return
        fields = [
            Parameter(name, annotation=member.annotation, kind=ParameterKind.keyword_only, default=member.value)
            for name, member in cls.members.items()
            if isinstance(member, Attribute) and member.annotation and "property" not in member.labels
        ]
        init = Function("__init__", parent=cls, parameters=Parameters(Parameter("self"), *fields), returns="None")
        cls.set_member("__init__", init)
