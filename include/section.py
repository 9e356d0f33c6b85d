"""What every block of keys of pipeline.yaml is: frozen, and unknown keys fail."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    # A run is planned with the JSON of its configuration; JSON has no number for an open bound.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
