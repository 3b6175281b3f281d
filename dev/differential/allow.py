"""What `differences.txt` allows by name, as changes that take it out of both answers alike."""


def _each(value, change):
    if isinstance(value, dict):
        change(value)
        for one in value.values():
            _each(one, change)
    elif isinstance(value, list):
        for one in value:
            _each(one, change)


def white_space(told):
    """What ends the text of a JSON answer."""
    told.pop("end", None)


def kind_of_items(told):
    """That the members of a list say what they are, which the list says already."""
    def change(value):
        if str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
            for one in value["items"]:
                if isinstance(one, dict) and one.get("apiVersion") == value.get("apiVersion"):
                    one.pop("kind", None)
                    one.pop("apiVersion", None)
    _each(told.get("body"), change)


def descriptions(told):
    """What says in words what a column or field means."""
    def change(value):
        if isinstance(value.get("description"), str):
            value["description"] = ""
    _each(told.get("body"), change)


def template_generation(told):
    """How often the template of a DaemonSet changed, as an annotation."""
    def change(value):
        noted = value.get("annotations")
        if isinstance(noted, dict) and noted.pop("deprecated.daemonset.template.generation", None) and not noted:
            del value["annotations"]
    _each(told.get("body"), change)


NAMED = {"white-space": white_space, "kind-of-items": kind_of_items, "descriptions": descriptions, "template-generation": template_generation}
