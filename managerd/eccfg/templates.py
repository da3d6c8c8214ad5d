"""The files that a new repository and a new subcluster begin with. They must pass the server's validation."""

_README = b"""\
# Configuration of the fleet

    global/                  every node gets this
    SUBCLUSTER/default/      every node of a subcluster
    SUBCLUSTER/NODE/         one node
    schemas/                 JSON Schema files: schemas/example.toml.json says what example.toml may hold
    running/NODE/            what a node saved of what it really runs ('eccfg put-running')

The more specific file wins. TOML, YAML and JSON files of the same name are merged key by key: maps merge, lists and
single values replace, KEY = {"$unset" = true} takes an inherited key away. 'eccfg explain FILE --node NODE' says
which layer gives each value.

    eccfg clone fleet && cd fleet
    eccfg diff && eccfg check
    eccfg commit -m "why"
    eccfg wait HEAD

global/access.toml says who may do what, global/rollout.toml which changes need a rollout in stages.
"""

_EXAMPLE = b"""\
# An example, for 'eccfg explain example.toml --node NODE'. Take it away when you like.
greeting = "hello"

[limits]
connections = 100
timeout = "30s"
"""

_EXAMPLE_DEFAULT = b"""\
# Of all nodes in the subcluster "default": only what differs from global/example.toml.
[limits]
connections = 200
"""

_EXAMPLE_SCHEMA = b"""\
{
  "type": "object",
  "properties": {
    "greeting": {"type": "string"},
    "limits": {
      "type": "object",
      "properties": {
        "connections": {"type": "integer", "minimum": 1, "maximum": 10000},
        "timeout": {"type": "string"}
      }
    }
  }
}
"""


def repository() -> dict[str, bytes]:
    """Revision 1 of a new repository."""
    return {
        "README.md": _README,
        "global/example.toml": _EXAMPLE,
        "default/default/example.toml": _EXAMPLE_DEFAULT,
        "schemas/example.toml.json": _EXAMPLE_SCHEMA,
    }


def subcluster(name: str) -> dict[str, bytes]:
    """What a new subcluster has."""
    text = (
        f"Files beside this one go to every node of the subcluster {name}: nodes with\n"
        f'subcluster = "{name}" in [node] of their jlogd.toml. Files of one node: {name}/NODE/.\n'
    )
    return {f"{name}/default/README.{name}": text.encode()}
