//! How OpenAI shows functions to its models: as TypeScript.
//!
//! What `OpenAI` does is not documented; the form is that of openai/harmony (Apache-2.0, read 2026-11-20), which renders them for
//! the models whose weights are open, in the details that reported counts confirm.

use serde_json::{Map, Value};

use crate::wires::prompt::{Schema, Tool};

/// What of a schema holds an answer to it, and is not shown.
const FORMALITIES: [&str; 10] = [
    "$schema",
    "additionalProperties",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maximum",
    "minimum",
    "multipleOf",
    "required",
    "strict",
];

/// What is noted behind a property.
const NOTED: [&str; 3] = ["default", "minimum", "maximum"];

/// Deeper schemas are cut off: hostile ones must end, and references may go in circles.
const DEPTH_MAX: usize = 12;
/// How deep a schema is looked into that is shown as JSON.
const NESTED_MAX: usize = 64;
/// Characters of one rendering; references can make a short schema endless.
const LENGTH_MAX: usize = 1 << 20;

/// All `tools` as one block.
pub(super) fn tools(tools: &[Tool]) -> String {
    let mut out = String::from("# Tools\n\n## functions\n\nnamespace functions {\n\n");
    for (number, tool) in tools.iter().enumerate() {
        if number > 0 {
            out.push_str("\n\n");
        }
        declare(&mut out, tool);
    }
    out.push_str("\n\n} // namespace functions");
    out
}

/// The shape that an answer must have.
pub(super) fn response_format(schema: &Schema) -> String {
    let mut out = format!("# Response Formats\n\n## {}\n\n", schema.name);
    comment(&mut out, &schema.description);
    out.push_str(&without_formalities(&schema.schema, 0).to_string());
    out
}

/// A schema as it is shown.
fn without_formalities(schema: &Value, depth: usize) -> Value {
    let inner = |value: &Value| without_formalities(value, depth.saturating_add(1));
    match schema {
        Value::Object(members) if depth < NESTED_MAX => {
            let shown = members.iter().filter(|(name, _)| !FORMALITIES.contains(&name.as_str()));
            let shown = shown.map(|(name, value)| match (name.as_str(), value) {
                // What is named here are properties, whatever they are called.
                ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                    let named = named.iter().map(|(name, value)| (name.clone(), inner(value)));
                    (name.clone(), Value::Object(named.collect()))
                }
                _ => (name.clone(), inner(value)),
            });
            Value::Object(shown.collect())
        }
        Value::Array(items) if depth < NESTED_MAX => items.iter().map(inner).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            schema.clone()
        }
    }
}

fn declare(out: &mut String, tool: &Tool) {
    comment(out, &tool.description);
    out.push_str("type ");
    out.push_str(&tool.name);
    let parameters = &tool.parameters;
    if properties(parameters).is_none() {
        out.push_str(" = () => any;");
        return;
    }
    let definitions = ["$defs", "definitions"].iter().find_map(|name| parameters.get(name)).and_then(Value::as_object);
    out.push_str(" = (_: ");
    for text in ["title", "description"].iter().filter_map(|name| text_of(parameters, name)) {
        out.push_str("// ");
        out.push_str(text);
        out.push('\n');
    }
    Renderer { definitions, depth: 0 }.object(out, parameters);
    out.push_str(") => any;");
}

/// Renders one tool's types.
#[derive(Clone, Copy)]
struct Renderer<'a> {
    definitions: Option<&'a Map<String, Value>>,
    depth: usize,
}

impl<'a> Renderer<'a> {
    fn deeper(self) -> Self {
        Self { depth: self.depth.saturating_add(1), ..self }
    }

    /// An object with properties: on one line where none of them is explained, else one a line.
    fn object(self, out: &mut String, schema: &'a Value) {
        let Some(properties) = properties(schema) else { return };
        let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mark = |name: &str| if required.iter().any(|one| one == name) { "" } else { "?" };
        let is_explained = properties.values().any(|property| {
            text_of(property, "title").or_else(|| text_of(property, "description")).is_some()
                || NOTED.iter().any(|name| property.get(name).is_some())
        });
        if !is_explained {
            out.push_str("{ ");
            for (number, (name, property)) in properties.iter().enumerate() {
                let comma = if number > 0 { ", " } else { "" };
                push(out, &[comma, name, mark(name), ": "]);
                self.of(out, property);
            }
            out.push_str(" }");
            return;
        }
        out.push_str("{\n");
        for (name, property) in properties {
            comments(out, property);
            push(out, &[name, mark(name), ": "]);
            self.of(out, property);
            out.push(',');
            let noted = NOTED.iter().filter_map(|name| Some((name, property.get(name)?)));
            for (number, (name, value)) in noted.enumerate() {
                push(out, &[if number > 0 { ", " } else { " // " }, name, ": ", &value.to_string()]);
            }
            out.push('\n');
        }
        out.push('}');
    }

    /// Any type.
    fn of(self, out: &mut String, schema: &'a Value) {
        let inner = self.deeper();
        if self.depth > DEPTH_MAX || out.len() > LENGTH_MAX || !schema.is_object() {
            out.push_str("any");
        } else if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap_or_default();
            match self.definitions.and_then(|definitions| definitions.get(name)) {
                Some(definition) => inner.of(out, definition),
                None => out.push_str("any"),
            }
        } else if let Some(variants) = ["anyOf", "oneOf"].iter().find_map(|name| schema.get(name)?.as_array()) {
            for (number, variant) in variants.iter().enumerate() {
                out.push_str(if number > 0 { " | " } else { "" });
                inner.of(out, variant);
            }
        } else if let Some(first) = schema.get("allOf").and_then(Value::as_array).and_then(|all| all.first()) {
            inner.of(out, first);
        } else if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
            join(out, values.iter().map(Value::to_string));
        } else if let Some(value) = schema.get("const") {
            out.push_str(&value.to_string());
        } else {
            self.plain(out, schema);
        }
    }

    /// A type by its name.
    fn plain(self, out: &mut String, schema: &'a Value) {
        let inner = self.deeper();
        match schema.get("type") {
            Some(Value::Array(kinds)) => {
                join(out, kinds.iter().filter_map(Value::as_str).map(|kind| in_typescript(kind).to_owned()));
            }
            Some(Value::String(kind)) => match kind.as_str() {
                "array" => {
                    inner.of(out, schema.get("items").unwrap_or(&Value::Null));
                    out.push_str("[]");
                }
                "object" if properties(schema).is_some() => inner.object(out, schema),
                kind => out.push_str(in_typescript(kind)),
            },
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => out.push_str("any"),
        }
    }
}

fn in_typescript(kind: &str) -> &str {
    if kind == "integer" { "number" } else { kind }
}

fn join(out: &mut String, parts: impl Iterator<Item = String>) {
    for (number, part) in parts.enumerate() {
        push(out, &[if number > 0 { " | " } else { "" }, &part]);
    }
}

fn push(out: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| out.push_str(part));
}

/// A property's title, then what it says of itself.
fn comments(out: &mut String, property: &Value) {
    let description = text_of(property, "description");
    if let Some(title) = text_of(property, "title") {
        push(out, &["// ", title.trim(), "\n"]);
        if description.is_some() {
            out.push_str("//\n");
        }
    }
    comment(out, description.unwrap_or_default());
}

/// Each line of `text` as a comment.
fn comment(out: &mut String, text: &str) {
    if text.trim().is_empty() {
        return;
    }
    for line in text.trim().split('\n') {
        let line = line.trim();
        let blank = if line.is_empty() { "" } else { " " };
        push(out, &["//", blank, line, "\n"]);
    }
}

fn text_of<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object).filter(|properties| !properties.is_empty())
}
