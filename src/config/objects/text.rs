//! Text of a configuration file to documents: splits a YAML file into its documents and parses each on
//! its own, so that a broken one does not take the others down. Input: a file name and its text.
//! Output: [`Document`]s. Must not know what the documents mean.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Document, DocumentContent};
use crate::limits::{CONFIG_DOCUMENTS_PER_FILE_MAX, CONFIG_NODES_PER_DOCUMENT_MAX};

/// Parses one file into documents, named `FILE#1`, `FILE#2` ... in file order. Parts without content,
/// such as the comment at the top of a file, do not count.
pub fn documents(file: &str, text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if file.ends_with(".json") {
        let content = match parse_json(text) {
            Ok(value) => DocumentContent::Object(value),
            Err(reason) => broken(format!("not valid JSON: {reason}")),
        };
        return vec![Document { origin: format!("{file}#1"), content }];
    }
    let mut documents = Vec::new();
    for (index, (first_line, part)) in split(text).into_iter().enumerate() {
        let origin = format!("{file}#{}", index + 1);
        if index == CONFIG_DOCUMENTS_PER_FILE_MAX {
            documents.push(Document {
                origin,
                content: DocumentContent::Broken {
                    reason: format!("more than {CONFIG_DOCUMENTS_PER_FILE_MAX} documents in one file"),
                    fix: "split the file; the documents from here on are not read".into(),
                },
            });
            break;
        }
        match parse_yaml(part, first_line) {
            Ok(Value::Null) => {}
            Ok(value) => documents.push(Document { origin, content: DocumentContent::Object(value) }),
            Err(reason) => {
                documents.push(Document { origin, content: broken(format!("not valid YAML: {reason}")) })
            }
        }
    }
    documents
}

fn broken(reason: String) -> DocumentContent {
    DocumentContent::Broken { reason, fix: "correct the syntax; until then nothing of it can be read".into() }
}

/// Cuts at document markers (`---` or `...` at the start of a line, which YAML allows nowhere else) and
/// gives each part with the number of lines before it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let marker = ["---", "..."].into_iter().find(|marker| {
            line.strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        });
        if let Some(marker) = marker {
            if has_content(&text[start..offset]) {
                parts.push((start_line, &text[start..offset]));
            }
            // What follows `---` on its own line belongs to the document.
            start = offset + marker.len();
            start_line = line_number;
        }
        offset += line.len();
    }
    if has_content(&text[start..]) {
        parts.push((start_line, &text[start..]));
    }
    parts
}

/// Whether anything but blank lines, comments and directives is there.
fn has_content(part: &str) -> bool {
    part.lines().any(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    })
}

/// Parses one YAML document; `lines_before` is added to line numbers of error texts.
pub(in crate::config) fn parse_yaml(text: &str, lines_before: usize) -> Result<Value, String> {
    let mut nodes_left = CONFIG_NODES_PER_DOCUMENT_MAX;
    let parsed = Node { nodes_left: &mut nodes_left }.deserialize(serde_yaml::Deserializer::from_str(text));
    parsed.map_err(|error| {
        let text = error.to_string();
        match error.location() {
            Some(at) => {
                let end = text.find(" at line ").unwrap_or(text.len());
                format!("{} (line {})", &text[..end], at.line() + lines_before)
            }
            None => text,
        }
    })
}

fn parse_json(text: &str) -> Result<Value, String> {
    let mut nodes_left = CONFIG_NODES_PER_DOCUMENT_MAX;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Node { nodes_left: &mut nodes_left }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| error.to_string())
}

/// Builds a JSON value from any self-describing input, within a budget of nodes (aliases of YAML can
/// otherwise blow a small file up) and without accepting a key twice.
struct Node<'a> {
    nodes_left: &'a mut usize,
}

impl Node<'_> {
    fn child(&mut self) -> Node<'_> {
        Node { nodes_left: self.nodes_left }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.nodes_left.checked_sub(1) {
            Some(left) => *self.nodes_left = left,
            None => {
                return Err(D::Error::custom(format_args!(
                    "more than {CONFIG_NODES_PER_DOCUMENT_MAX} values in one document"
                )));
            }
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value, list or mapping")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no infinities: they stay readable as text and are refused where a number is wanted.
        Ok(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self.child())? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(self.child())? {
            let key = match key {
                Value::String(key) => key,
                Value::Null | Value::Bool(_) | Value::Number(_) => key.to_string(),
                _ => return Err(A::Error::custom("a list or mapping is used as a key")),
            };
            let value = access.next_value_seed(self.child())?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} appears twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("YAML tags (words that begin with `!`) have no meaning here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_leaves_its_neighbours() {
        let found = documents("a.yaml", "# top\n---\na: 1\n---\nb: [\n---\n\n--- \nc: 3\n...\n");
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].origin, "a.yaml#1");
        assert!(
            matches!(&found[1].content, DocumentContent::Broken { reason, .. } if reason.contains("line 6")),
            "{found:?}"
        );
        assert_eq!(found[2].content, DocumentContent::Object(serde_json::json!({"c": 3})));
    }

    #[test]
    fn keys_twice_tags_and_alias_bombs_are_refused() {
        for text in ["a: 1\na: 2", "a: !secret x", "? [a]\n: 1"] {
            let found = documents("a.yaml", text);
            assert!(matches!(found[0].content, DocumentContent::Broken { .. }), "{found:?}");
        }
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = level - 1;
            bomb += &format!(
                "a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}]\n"
            );
        }
        let found = documents("bomb.yaml", &bomb);
        assert!(matches!(found[0].content, DocumentContent::Broken { .. }));
    }

    #[test]
    fn values_keep_their_types() {
        let value = parse_yaml("{a: 1, b: 1.5, c: .inf, d: 'x', e: null, 5: true, on: off}", 0).unwrap();
        let want =
            serde_json::json!({"a": 1, "b": 1.5, "c": "inf", "d": "x", "e": null, "5": true, "on": "off"});
        assert_eq!(value, want);
    }

    #[test]
    fn a_list_on_the_marker_line_and_json_work() {
        assert_eq!(
            documents("a.yml", "--- [1]\n")[0].content,
            DocumentContent::Object(serde_json::json!([1]))
        );
        assert_eq!(documents("a.json", "{\"a\":1}").len(), 1);
        assert!(matches!(documents("a.json", "{\"a\":1} x")[0].content, DocumentContent::Broken { .. }));
    }
}
