//! The part of Helm's template language that the chart uses: `{{ PATH }}` and
//! `{{- toYaml PATH | nindent N }}` within a line; `if`, `with` and `range` with `end`, on lines of their
//! own. PATH is `.` or `.Values.NAME`. A chart that uses more fails here.

use serde_yaml::Value;

/// The text that a template renders.
pub fn render(template: &str, values: &Value) -> String {
    let lines: Vec<&str> = template.lines().collect();
    let mut out = String::new();
    render_lines(&lines, values, &Value::Null, &mut out);
    out
}

fn render_lines(mut lines: &[&str], values: &Value, dot: &Value, out: &mut String) {
    while let Some((line, rest)) = lines.split_first() {
        let Some((verb, path)) = opening(line) else {
            out.push_str(&render_line(line, values, dot));
            out.push('\n');
            lines = rest;
            continue;
        };
        let (body, rest) = rest.split_at(end_of_block(rest));
        lines = &rest[1..];
        let value = find(path, values, dot);
        match verb {
            "range" => {
                for item in value.as_sequence().unwrap() {
                    render_lines(body, values, item, out);
                }
            }
            "with" if is_set(value) => render_lines(body, values, value, out),
            "if" if is_set(value) => render_lines(body, values, dot, out),
            _ => {}
        }
    }
}

/// Verb and path of a line that opens a block.
fn opening(line: &str) -> Option<(&str, &str)> {
    let inside = line.trim().strip_prefix("{{- ")?.strip_suffix(" }}")?;
    let (verb, path) = inside.split_once(' ')?;
    ["if", "with", "range"].contains(&verb).then_some((verb, path))
}

fn is_end(line: &str) -> bool {
    line.trim() == "{{- end }}"
}

/// Index of the line that closes a block, of the lines after the one that opens it.
fn end_of_block(lines: &[&str]) -> usize {
    let mut open = 1;
    let closes = |line: &&str| {
        open += usize::from(opening(line).is_some());
        open -= usize::from(is_end(line));
        open == 0
    };
    lines.iter().position(closes).expect("a block ends")
}

fn render_line(line: &str, values: &Value, dot: &Value) -> String {
    let Some(start) = line.find("{{") else { return line.to_owned() };
    let end = line.find("}}").expect("an expression ends");
    let (before, after) = (&line[..start], &line[end + 2..]);
    assert!(!after.contains("{{"), "not supported: {line}");
    let expression = line[start + 2..end].trim();
    if let Some(call) = expression.strip_prefix("- toYaml ") {
        let (path, indent) = call.split_once(" | nindent ").expect("nindent follows toYaml");
        let indent = " ".repeat(indent.parse().unwrap());
        let yaml = serde_yaml::to_string(find(path, values, dot)).unwrap();
        let lines = yaml.trim_end().lines().map(|line| format!("\n{indent}{line}"));
        return format!("{}{}{after}", before.trim_end(), lines.collect::<String>());
    }
    let value = find(expression, values, dot).as_str().expect("a text");
    format!("{before}{value}{after}")
}

fn find<'a>(path: &str, values: &'a Value, dot: &'a Value) -> &'a Value {
    if path == "." {
        return dot;
    }
    let name = path.strip_prefix(".Values.").unwrap_or_else(|| panic!("not supported: {path}"));
    let value = &values[name];
    assert!(!value.is_null(), "values.yaml has no {name}");
    value
}

/// What Go templates take as true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Bool(value) => *value,
        Value::String(text) => !text.is_empty(),
        Value::Sequence(items) => !items.is_empty(),
        Value::Mapping(entries) => !entries.is_empty(),
        _ => panic!("not supported: {value:?}"),
    }
}
