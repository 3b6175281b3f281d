"""Protobuf without its schema: enough to see whether two messages say the same."""


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at
        if shift > 63:
            raise ValueError("long")


def _fields(data):
    at, fields = 0, []
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if not 1 <= number <= 4000:
            raise ValueError("number")
        if form == 0:
            value, at = _varint(data, at)
        elif form == 2:
            size, at = _varint(data, at)
            value, at = data[at:at + size], at + size
            if len(value) != size:
                raise ValueError("short")
        elif form in (1, 5):
            size = 8 if form == 1 else 4
            value, at = data[at:at + size].hex(), at + size
            if at > len(data):
                raise ValueError("short")
        else:
            raise ValueError("form")
        fields.append((number, value))
    return fields


def _text(data):
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\n\t" for char in text) else None


def message(data):
    """Fields by number, the way JSON has them; what may be text is text."""
    out = []
    for number, value in _fields(data):
        if isinstance(value, bytes):
            text = _text(value)
            if text is None or (text and text[0] in "\n\t"):
                try:
                    value = message(value)
                except (ValueError, IndexError):
                    value = text if text is not None else value.hex()
            else:
                value = text
        out.append({str(number): value})
    return out


def envelope(data):
    """What is in an answer of the protobuf media type."""
    if data[:4] != b"k8s\0":
        return {"not protobuf": data.hex()}
    out = {}
    for number, value in _fields(data[4:]):
        if number == 1:
            out["type"] = message(value)
        elif number == 2:
            out["object"] = message(value)
        else:
            out[str(number)] = value.decode() if isinstance(value, bytes) else value
    return out
