//! Server-side tables as text, in the columns and widths that users know from kubectl.

use serde_json::Value;

/// Which columns are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Columns of lower priority, too.
    pub wide: bool,
    /// The namespace first.
    pub namespace: bool,
    /// The line of headers.
    pub headers: bool,
}

/// The table's text; `prefix` stands before each name (`pod/`). Columns keep the widths that they had, where these suffice.
pub(crate) fn text(table: &Value, prefix: &str, shown: Shown, widths: &mut Vec<usize>) -> String {
    let definitions = table["columnDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
    let columns: Vec<usize> =
        (0..definitions.len()).filter(|at| shown.wide || definitions[*at]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    if shown.headers {
        let mut line: Vec<String> = columns.iter().map(|at| definitions[*at]["name"].as_str().unwrap_or("").to_uppercase()).collect();
        if shown.namespace {
            line.insert(0, "NAMESPACE".into());
        }
        lines.push(line);
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let mut line: Vec<String> = columns.iter().map(|at| cell(&row["cells"][*at])).collect();
        if let Some(first) = line.first_mut() {
            first.insert_str(0, prefix);
        }
        if shown.namespace {
            line.insert(0, row["object"]["metadata"]["namespace"].as_str().unwrap_or("").to_owned());
        }
        lines.push(line);
    }
    aligned(&lines, widths)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) => text.split('\n').next().unwrap_or("").to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Lines of cells, each column as wide as its widest cell and three spaces more.
pub(crate) fn columns_of(lines: &[Vec<String>]) -> String {
    aligned(lines, &mut Vec::new())
}

fn aligned(lines: &[Vec<String>], widths: &mut Vec<usize>) -> String {
    let mut out = String::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in lines {
        for (at, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if at + 1 < line.len() {
                out.extend(std::iter::repeat_n(' ', widths[at] + 3 - cell.chars().count()));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_low_priorities_hidden() {
        let table = serde_json::json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a-long-name", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "x"}}}, {"cells": ["b", null, ""]}],
        });
        let shown = Shown { wide: false, namespace: false, headers: true };
        assert_eq!(text(&table, "", shown, &mut Vec::new()), "NAME          READY\na-long-name   1/1\nb             <none>\n");
        let shown = Shown { wide: true, namespace: true, headers: false };
        let mut widths = Vec::new();
        assert_eq!(text(&table, "pod/", shown, &mut widths), "x   pod/a-long-name   1/1      10.0.0.1\n    pod/b             <none>   \n");
        let change = serde_json::json!({"columnDefinitions": table["columnDefinitions"], "rows": [{"cells": ["c", "0/1", ""]}]});
        assert_eq!(text(&change, "pod/", shown, &mut widths), "    pod/c             0/1      \n");
    }
}
