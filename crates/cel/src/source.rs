//! Errors with the place in the text, as users see them.

/// `ERROR: <input>:1:5: what`, the line and a caret below the place.
pub(crate) fn error(text: &str, at: usize, what: &str) -> String {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = text[start..at].chars().count();
    let source = text[start..].lines().next().unwrap_or("").replace('\t', " ");
    format!("ERROR: <input>:{line}:{}: {what}\n | {source}\n | {}^", column + 1, ".".repeat(column))
}
