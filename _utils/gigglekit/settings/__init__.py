"""The settings of a deployment: what may be chosen, whether a choice is right, and how to say what is wrong.

`pillar/schema.yaml` is the one source. `check` joins the schema, the formats and the rules between values; `report`
turns what it finds into paragraphs for an operator; `document` writes docs/PILLAR.md; `droplet` writes the file with
the answers that bootstrap.sh asked for.
"""
