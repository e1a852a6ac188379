"""The configuration as JSON Schema, by which editors complete, explain and check a YAML file.

It takes what the program takes, apart from numbers in quotes and names that look like numbers. What
one setting means for another, only the program knows.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from weathermixer import __version__
from weathermixer.config.kinds import NAMES_OF_LISTS, as_list
from weathermixer.config.sections import is_section
from weathermixer.config.settings import Config

SCHEMA_FILE = "weathermixer.schema.json"
"""The name under which ``init`` looks for the schema beside a configuration."""


def config_schema() -> dict[str, Any]:
    """The schema of a configuration file, in the dialect of 2020-12."""
    schema = Config.model_json_schema(schema_generator=_Generator)
    for name, field in Config.model_fields.items():
        if is_section(field.annotation) and not field.is_required():
            # A section whose keys are all commented out is one in which nothing is set.
            schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": "null"}]}
    for name, known in NAMES_OF_LISTS.items():
        names, _ = schema["$defs"]["Data"]["properties"][name]["anyOf"]
        names["items"] = {"enum": list(known)}
    title = f"Configuration of WeatherMixer {__version__}"
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": title}


class _Generator(GenerateJsonSchema):
    """Writes no titles, which would repeat names, and lists in every form that may be written."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        found = super().function_before_schema(schema)
        if schema["function"]["function"] is as_list:
            return {"anyOf": [found, {"type": ["string", "number"]}]}
        return found
