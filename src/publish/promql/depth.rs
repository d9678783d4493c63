//! A bound on the depth of a query, found before it is parsed.

/// Upper bound on the depth of a query's syntax tree. The parser recurses over the tree, so an unbounded
/// one would overflow the stack, which ends the process.
pub fn levels(query: &str) -> usize {
    let mut levels = 0;
    let mut rest = query;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            '"' | '\'' | '`' => quoted(rest, character),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
                let word = &rest[..length.unwrap_or(rest.len())];
                let operators = ["and", "or", "unless", "atan2"];
                levels += usize::from(operators.iter().any(|operator| word.eq_ignore_ascii_case(operator)));
                word.len()
            }
            _ => {
                let is_level =
                    "([+-*/%^<>".contains(character) || rest.starts_with("==") || rest.starts_with("!=");
                levels += usize::from(is_level);
                character.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    levels
}

/// Length of the string literal at the start of `text`; only the back quote knows no escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == quote {
            return at + 1;
        } else {
            escaped = character == '\\' && quote != '`';
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use crate::publish::promql::{Query, QueryError};

    #[test]
    fn a_deep_query_is_refused_before_it_is_parsed() {
        let times = |text: &str| text.repeat(20_000);
        for deep in [
            format!("{}x{}", times("("), times(")")),
            format!("{}x", times("-")),
            format!("x{}", times("+x")),
            format!("x{}", times(" or x")),
            format!("x{}", times("==x")),
            format!("{}x{}", times("sum("), times(")")),
            format!("x{}", times("[5m:1m]")),
            format!("# \"\n{}", times("(")),
            format!("x{{a=\"\\\"\"}} {}", times("-")),
        ] {
            let error = Query::parse(&deep).unwrap_err();
            assert!(matches!(error, QueryError::Unsupported(_)), "{error}");
        }
    }

    #[test]
    fn long_regular_expressions_are_not_deep() {
        let names = "(a-b+)|".repeat(500);
        let query = format!("inferno_desired_replicas{{variant_name=~\"{names}x\",a!~'({names}y)'}}");
        Query::parse(&query).unwrap();
    }
}
